"""Draw cooperation.png: two players of one stage, and the step of each in every mode.

python docs/pictures/cooperation.py     (needs matplotlib)
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#555555"
GAMMA = 0.1


def draw_box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Draw a box with centred text."""
    shape = FancyBboxPatch(
        (x - 0.55, y - 0.22), 1.1, 0.44, boxstyle="round,pad=0.05", ec=GREY, fc=colour
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def draw_arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str
) -> None:
    """Draw an arrow between two points."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=11, color=GREY))


def draw_stage(axes: Axes) -> None:
    """Draw one stage: a shared input, two players, a sum."""
    draw_box(axes, 0.6, 0.0, "input $x$", "white")
    draw_box(axes, 2.6, 0.7, "player $u$", "#EAF3FA")
    draw_box(axes, 2.6, -0.7, "player $v$", "#FFF3E6")
    draw_box(axes, 4.6, 0.0, "sum", "white")
    for y in (0.7, -0.7):
        draw_arrow(axes, (1.2, 0.0), (1.98, y), "-|>")
        draw_arrow(axes, (3.2, y), (4.0, 0.0), "-|>")
    axes.add_patch(
        FancyArrowPatch((2.6, 0.42), (2.6, -0.42), arrowstyle="<|-|>", mutation_scale=11, color=RED)
    )
    axes.text(2.72, 0.0, "$Q_{uv}$", color=RED, va="center", fontsize=10)
    axes.set(xlim=(-0.1, 5.3), ylim=(-1.2, 1.3), title="Players of one stage")
    axes.axis("off")


def draw_step_factors(axes: Axes) -> None:
    """Draw the factor on the shared gradient along one direction, against its curvature."""
    curvature = np.geomspace(1e-3, 1e1, 200)
    curves = {
        "theorem3": (np.full_like(curvature, 1 / GAMMA), RED),
        "rescale": (1 / (GAMMA + GAMMA * curvature / (GAMMA + curvature)), ORANGE),
        "none": (1 / (GAMMA + curvature), GREY),
        "joint": (1 / (GAMMA + 2 * curvature), BLUE),
    }
    for name, (values, colour) in curves.items():
        axes.loglog(curvature, values, color=colour, label=name)
    axes.axvline(GAMMA, color=GREY, linewidth=0.7, linestyle=":")
    axes.text(GAMMA * 1.1, 0.06, r"$\lambda = \gamma$", fontsize=8, color=GREY)
    axes.set(xlabel=r"curvature $\lambda$", ylabel="step of each player / its gradient")
    axes.set_title("Two players with one gradient")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the picture beside this script."""
    figure = Figure(figsize=(8.6, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    draw_stage(left)
    draw_step_factors(right)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
