"""Draws the_game.png: one step of the sequential and of the implicit game on a small network.

python docs/pictures/the_game.py     (needs matplotlib)
"""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
STAGES = (("Conv_0",), ("Conv_1",), ("Conv_2", "Conv_3 (shortcut)"), ("Dense_0",))
LEFT, STEP, WIDTH = 1.2, 2.6, 1.9


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, **style: Any
) -> None:
    """A rounded box around its centre with a text in it."""
    edge = style.pop("edgecolor", GREY)
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0.05",
        edgecolor=edge,
        facecolor=style.pop("facecolor", "white"),
        linewidth=1.2,
        linestyle=style.pop("linestyle", "-"),
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=9, **style)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """An arrow."""
    style = {"color": GREY, "arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.3} | style
    axes.add_patch(FancyArrowPatch(start, end, **style))


def centre(t: int) -> float:
    """Where stage t stands."""
    return LEFT + STEP * t + 1.4


def network(axes: Axes) -> None:
    """The stages, their players and the live states between them."""
    box(axes, LEFT - 0.45, 0.3, 0.8, 0.6, "batch")
    for t, players in enumerate(STAGES):
        axes.text(centre(t), 1.02, f"stage {t}", ha="center", fontsize=8, color=GREY)
        for i, player in enumerate(players):
            colour = "#EAF3FA" if i == 0 else "#FFF3E6"
            box(axes, centre(t), 0.3 - 0.75 * i, WIDTH, 0.45, player, facecolor=colour)
        before = LEFT if t == 0 else centre(t - 1) + WIDTH / 2 + 0.05
        arrow(axes, (before, 0.3), (centre(t) - WIDTH / 2 - 0.05, 0.3))
    end = centre(len(STAGES) - 1) + WIDTH / 2
    arrow(axes, (end + 0.05, 0.3), (end + 0.65, 0.3))
    box(axes, end + 1.4, 0.3, 1.35, 0.7, "loss of\neach sample")
    turn = centre(0) + WIDTH / 2 + 0.2
    axes.plot([turn, turn], [0.3, -0.45], color=GREY, linewidth=1.3)
    arrow(axes, (turn, -0.45), (centre(2) - WIDTH / 2 - 0.05, -0.45))
    out = centre(2) + WIDTH / 2
    axes.plot([out + 0.05, out + 0.3, out + 0.3], [-0.45, -0.45, 0.28], color=GREY, linewidth=1.3)
    axes.text(centre(1), -0.62, "shortcut state, alive until the merge", **small(GREY))


def small(colour: str) -> dict[str, Any]:
    """The style of a note."""
    return {"ha": "center", "va": "center", "fontsize": 8, "color": colour}


def sequential(axes: Axes) -> None:
    """The backward pass above the network, the rollout below it."""
    network(axes)
    last = len(STAGES) - 1
    for t in range(last, 0, -1):
        arrow(axes, (centre(t), 1.25), (centre(t - 1) + 0.1, 1.25), color=BLUE, **bent(0.2))
        arrow(axes, (centre(t - 1), -1.1), (centre(t) - 0.1, -1.1), color=ORANGE, **bent(0.2))
    axes.text(
        centre(1) + STEP / 2,
        1.95,
        "backward: each stage plans its step, given the plans of the stages after it "
        "(α of each sample)",
        **small(BLUE),
    )
    axes.text(
        centre(1) + STEP / 2,
        -1.8,
        "rollout: each stage corrects its step, given what the stages before it have changed "
        "(Δφ of each sample)",
        **small(ORANGE),
    )
    axes.set_title("The sequential game: a weight for each sample in each stage", fontsize=10)
    axes.set_ylim(-2.0, 2.2)


def bent(radius: float) -> dict[str, Any]:
    """The style of a curved arrow."""
    return {"connectionstyle": f"arc3,rad={radius}"}


def implicit(axes: Axes) -> None:
    """One prediction, one weight a sample."""
    middle = centre(1) + STEP / 2
    box(axes, LEFT - 0.45, 0, 0.8, 0.6, "batch")
    arrow(axes, (LEFT, 0), (centre(0) - 1.0, 0))
    box(axes, (centre(0) + centre(1)) / 2, 0, 4.4, 0.8, "any model", facecolor="#EAF3FA")
    box(
        axes,
        (centre(2) + centre(3)) / 2,
        0,
        4.4,
        0.8,
        "where will the base optimizer's step\nput the loss of each sample?",
        edgecolor=GREEN,
    )
    arrow(axes, (centre(1) + 0.95, 0), (centre(2) - 0.95, 0))
    arrow(axes, (centre(3), -0.5), (centre(0), -0.5), color=GREEN, **bent(-0.12))
    axes.text(
        middle,
        -1.45,
        "weight = slope of the loss there; the base optimizer gets the weighted gradient",
        **small(GREEN),
    )
    axes.set_title("The implicit game: one weight for each sample, in all layers", fontsize=10)
    axes.set_ylim(-1.7, 0.8)


def draw(path: Path) -> None:
    """Draws both games under each other."""
    figure = Figure(figsize=(10, 5.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, height_ratios=(4.2, 2.5))
    for axes, game in zip(panels, (sequential, implicit), strict=True):
        axes.set_xlim(0.2, centre(len(STAGES) - 1) + WIDTH / 2 + 2.3)
        axes.axis("off")
        game(axes)
    figure.savefig(path)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
