"""Draw the_game.png: one step of the sequential and of the implicit game on a small network.

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


def draw_box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, **style: Any
) -> None:
    """Draw a rounded box with centred text."""
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


def draw_arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any
) -> None:
    """Draw an arrow."""
    style = {"color": GREY, "arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.3} | style
    axes.add_patch(FancyArrowPatch(start, end, **style))


def stage_centre(t: int) -> float:
    """Horizontal position of stage t."""
    return LEFT + STEP * t + 1.4


def draw_network(axes: Axes) -> None:
    """Draw the stages, their players and the live states between them."""
    draw_box(axes, LEFT - 0.45, 0.3, 0.8, 0.6, "batch")
    for t, players in enumerate(STAGES):
        axes.text(stage_centre(t), 1.02, f"stage {t}", ha="center", fontsize=8, color=GREY)
        for i, player in enumerate(players):
            colour = "#EAF3FA" if i == 0 else "#FFF3E6"
            draw_box(axes, stage_centre(t), 0.3 - 0.75 * i, WIDTH, 0.45, player, facecolor=colour)
        before = LEFT if t == 0 else stage_centre(t - 1) + WIDTH / 2 + 0.05
        draw_arrow(axes, (before, 0.3), (stage_centre(t) - WIDTH / 2 - 0.05, 0.3))
    end = stage_centre(len(STAGES) - 1) + WIDTH / 2
    draw_arrow(axes, (end + 0.05, 0.3), (end + 0.65, 0.3))
    draw_box(axes, end + 1.4, 0.3, 1.35, 0.7, "loss of\neach sample")
    turn = stage_centre(0) + WIDTH / 2 + 0.2
    axes.plot([turn, turn], [0.3, -0.45], color=GREY, linewidth=1.3)
    draw_arrow(axes, (turn, -0.45), (stage_centre(2) - WIDTH / 2 - 0.05, -0.45))
    out = stage_centre(2) + WIDTH / 2
    axes.plot([out + 0.05, out + 0.3, out + 0.3], [-0.45, -0.45, 0.28], color=GREY, linewidth=1.3)
    axes.text(stage_centre(1), -0.62, "shortcut state, alive until the merge", **note_style(GREY))


def note_style(colour: str) -> dict[str, Any]:
    """Text style of a note."""
    return {"ha": "center", "va": "center", "fontsize": 8, "color": colour}


def draw_sequential_game(axes: Axes) -> None:
    """Draw the backward pass above the network and the rollout below it."""
    draw_network(axes)
    last = len(STAGES) - 1
    for t in range(last, 0, -1):
        draw_arrow(
            axes,
            (stage_centre(t), 1.25),
            (stage_centre(t - 1) + 0.1, 1.25),
            color=BLUE,
            **curved_style(0.2),
        )
        draw_arrow(
            axes,
            (stage_centre(t - 1), -1.1),
            (stage_centre(t) - 0.1, -1.1),
            color=ORANGE,
            **curved_style(0.2),
        )
    axes.text(
        stage_centre(1) + STEP / 2,
        1.95,
        "backward pass: each stage plans its step, given the plans of later stages "
        "(α of each sample)",
        **note_style(BLUE),
    )
    axes.text(
        stage_centre(1) + STEP / 2,
        -1.8,
        "rollout: each stage corrects its step, given the changes by earlier stages "
        "(Δφ of each sample)",
        **note_style(ORANGE),
    )
    axes.set_title("The sequential game: one sample weight per stage", fontsize=10)
    axes.set_ylim(-2.0, 2.2)


def curved_style(radius: float) -> dict[str, Any]:
    """Style of a curved arrow."""
    return {"connectionstyle": f"arc3,rad={radius}"}


def draw_implicit_game(axes: Axes) -> None:
    """One prediction, one weight per sample."""
    middle = stage_centre(1) + STEP / 2
    draw_box(axes, LEFT - 0.45, 0, 0.8, 0.6, "batch")
    draw_arrow(axes, (LEFT, 0), (stage_centre(0) - 1.0, 0))
    draw_box(
        axes, (stage_centre(0) + stage_centre(1)) / 2, 0, 4.4, 0.8, "any model", facecolor="#EAF3FA"
    )
    draw_box(
        axes,
        (stage_centre(2) + stage_centre(3)) / 2,
        0,
        4.4,
        0.8,
        "predicted loss of each sample\nafter the base optimizer's step",
        edgecolor=GREEN,
    )
    draw_arrow(axes, (stage_centre(1) + 0.95, 0), (stage_centre(2) - 0.95, 0))
    draw_arrow(
        axes, (stage_centre(3), -0.5), (stage_centre(0), -0.5), color=GREEN, **curved_style(-0.12)
    )
    axes.text(
        middle,
        -1.45,
        "sample weight = derivative of the loss there; the base receives the weighted gradient",
        **note_style(GREEN),
    )
    axes.set_title("The implicit game: one sample weight for all layers", fontsize=10)
    axes.set_ylim(-1.7, 0.8)


def draw_games(path: Path) -> None:
    """Draw both games below each other."""
    figure = Figure(figsize=(10, 5.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, height_ratios=(4.2, 2.5))
    for axes, draw_game in zip(panels, (draw_sequential_game, draw_implicit_game), strict=True):
        axes.set_xlim(0.2, stage_centre(len(STAGES) - 1) + WIDTH / 2 + 2.3)
        axes.axis("off")
        draw_game(axes)
    figure.savefig(path)


if __name__ == "__main__":
    draw_games(Path(__file__).with_suffix(".png"))
