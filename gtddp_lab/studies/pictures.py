"""Pictures of comparisons: curves with bands, and intervals below each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gtddp_lab.core.drawing import load_matplotlib
from gtddp_lab.studies.cell_runner import CellResult
from gtddp_lab.studies.comparison import Comparison
from gtddp_lab.studies.statistics import Estimate
from gtddp_lab.training.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND_RESAMPLES = 1000


def new_figure(columns: int, rows: int = 1, width: float = 4.6, height: float = 3.2) -> "Figure":
    """Create an empty figure for a grid of panels, without a window system."""
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would need a window system and keep figures alive.
    figure = Figure(figsize=(width * columns, height * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", out: Path, name: str) -> tuple[str, ...]:
    """Write `<name>.png` and `<name>.svg`, and return the names of the files."""
    out.mkdir(parents=True, exist_ok=True)
    names = (f"{name}.png", f"{name}.svg")
    for file in names:
        figure.savefig(out / file)
    return names


def draw_training_curve(
    axes: "Axes",
    courses: np.ndarray,
    label: str,
    colour: str,
    epoch_time: float = 1.0,
    style: str = "-",
) -> None:
    """Draw the mean over seeds of courses [seeds, epochs], with its 95 % bootstrap interval.

    Args:
        axes: Where.
        courses: One row per seed.
        label: For the legend.
        colour: Of the line and the band.
        epoch_time: Distance between epochs on the horizontal axis.
        style: Of the line, as in Matplotlib.
    """
    if not np.isfinite(courses).all():
        courses = np.where(np.isfinite(courses), courses, np.nan)
        label = f"{label} (some runs not finite)"
    epochs = epoch_time * np.arange(1, courses.shape[1] + 1)
    rng = np.random.default_rng(0)
    # Whole seeds are resampled, so that each course stays together.
    resamples = rng.integers(0, len(courses), (BAND_RESAMPLES, len(courses)))
    low, high = np.percentile(courses[resamples].mean(1), (2.5, 97.5), axis=0)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(epochs, courses.mean(0), style, color=colour, label=label, linewidth=1.8)


def draw_training_curves(
    results: Sequence[CellResult], out: Path, name: str, heading_of: Callable[[CellResult], str]
) -> tuple[str, ...]:
    """Draw training loss and validation accuracy over the epochs, one column per heading.

    Args:
        results: Results of cells; those with the same heading share a panel.
        out: Folder.
        name: Name of the files, without extension.
        heading_of: Heading of a panel.
    """
    headings = list(dict.fromkeys(heading_of(result) for result in results))
    figure = new_figure(len(headings), 2)
    panels = figure.subplots(2, len(headings), squeeze=False)
    for column, heading in enumerate(headings):
        members = [result for result in results if heading_of(result) == heading]
        for number, result in enumerate(members):
            colour = COLOURS[number % len(COLOURS)]
            label = result.cell.label
            draw_training_curve(panels[0, column], result.figures["train_loss"], label, colour)
            accuracy = 100 * result.figures["validation_accuracy"]
            draw_training_curve(panels[1, column], accuracy, label, colour)
        panels[0, column].set(title=heading, yscale="log", ylabel="training loss")
        panels[1, column].set(xlabel="epoch", ylabel="validation accuracy, %")
        for row in (0, 1):
            panels[row, column].grid(alpha=0.3)
            panels[row, column].legend(fontsize="small")
    return save_figure(figure, out, name)


def draw_intervals(
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    headings: Mapping[str, int],
    out: Path,
    name: str,
) -> tuple[str, ...]:
    """Draw estimates with their intervals: one line per row, one panel per heading.

    An interval that excludes 0 is blue if it is better and orange if it is worse; others are grey.

    Args:
        rows: A label and one estimate for each panel.
        headings: Headings of the panels, each with the sign that is better.
        out: Folder.
        name: Name of the files, without extension.
    """
    figure = new_figure(len(headings), width=4.4, height=max(1.6, 0.24 * len(rows) + 1.0))
    panels: Any = figure.subplots(1, len(headings), sharey=True, squeeze=False)[0]
    heights = np.arange(len(rows))[::-1]
    for panel, (axes, (heading, better)) in enumerate(zip(panels, headings.items(), strict=True)):
        axes.axvline(0, color="0.5", linewidth=1)
        for row_height, (_, estimates) in zip(heights, rows, strict=True):
            estimate = estimates[panel]
            if not estimate.known:
                axes.annotate("diverged", (0, row_height), fontsize=7, color="0.4", va="center")
                continue
            low = estimate.low if math.isfinite(estimate.low) else estimate.value
            high = estimate.high if math.isfinite(estimate.high) else estimate.value
            colour = {1: COLOURS[0], 0: "0.45", -1: COLOURS[1]}[better * estimate.sign]
            axes.plot([low, high], [row_height, row_height], color=colour, linewidth=1.6)
            axes.plot([estimate.value], [row_height], "o", color=colour, markersize=4)
        axes.set(title=heading, yticks=heights, yticklabels=[label for label, _ in rows])
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    return save_figure(figure, out, name)


def draw_comparison_intervals(
    comparisons: Sequence[Comparison], out: Path, name: str, label: Callable[[Comparison], str]
) -> tuple[str, ...]:
    """Draw run average, final loss, final loss at equal time and accuracy with intervals."""
    headings = {
        "run-average loss, log-ratio": -1,
        "final loss, log-ratio": -1,
        "final loss at equal time, log-ratio": -1,
        "validation, points": 1,
    }
    rows = [
        (label(row), (row.average, row.final, row.equal_time_final, row.accuracy))
        for row in comparisons
    ]
    return draw_intervals(rows, headings, out, name)
