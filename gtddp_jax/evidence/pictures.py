"""Pictures of comparisons: curves with bands, intervals beside each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gtddp_jax.evidence.comparison import Comparison
from gtddp_jax.evidence.lab import Result
from gtddp_jax.evidence.statistics import Estimate
from gtddp_jax.training.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESAMPLES = 1000


def canvas(columns: int, rows: int = 1, width: float = 4.6, height: float = 3.2) -> "Figure":
    """An empty figure for a grid of panels, without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", out: Path, name: str) -> tuple[str, ...]:
    """Writes `<name>.png` and `<name>.svg`; returns the names of the files."""
    out.mkdir(parents=True, exist_ok=True)
    names = (f"{name}.png", f"{name}.svg")
    for file in names:
        figure.savefig(out / file)
    return names


def draw_curve(axes: "Axes", courses: np.ndarray, label: str, colour: str) -> None:
    """Draws a mean over seeds [seeds, epochs], with the band of its 95 % bootstrap interval."""
    if not np.isfinite(courses).all():
        finite = np.where(np.isfinite(courses), courses, np.nan)
        label = f"{label} (some runs not finite)"
        courses = finite
    epochs = np.arange(1, courses.shape[1] + 1)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(courses), (RESAMPLES, len(courses)))
    low, high = np.percentile(courses[picks].mean(1), (2.5, 97.5), axis=0)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(epochs, courses.mean(0), color=colour, label=label, linewidth=1.8)


def curves(
    results: Sequence[Result], out: Path, name: str, title: Callable[[Result], str]
) -> tuple[str, ...]:
    """Training loss and validation accuracy over the epochs, one column of panels a setting.

    Args:
        results: Of cells; those that differ in their variant share a panel.
        out: Folder.
        name: Name of the files, without ending.
        title: Heading of a panel.
    """
    settings = list(dict.fromkeys(title(result) for result in results))
    figure = canvas(len(settings), 2)
    panels = figure.subplots(2, len(settings), squeeze=False)
    for column, heading in enumerate(settings):
        for number, result in enumerate(r for r in results if title(r) == heading):
            colour = COLOURS[number % len(COLOURS)]
            label = result.cell.label
            draw_curve(panels[0, column], result.figures["train_loss"], label, colour)
            accuracy = 100 * result.figures["validation_accuracy"]
            draw_curve(panels[1, column], accuracy, label, colour)
        panels[0, column].set(title=heading, yscale="log", ylabel="training loss")
        panels[1, column].set(xlabel="epoch", ylabel="validation accuracy, %")
        for row in (0, 1):
            panels[row, column].grid(alpha=0.3)
            panels[row, column].legend(fontsize="small")
    return save(figure, out, name)


def intervals(
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    headings: Mapping[str, int],
    out: Path,
    name: str,
) -> tuple[str, ...]:
    """Estimates with their intervals, one line a row, one panel a heading; 0 is marked.

    Blue is better, orange is worse, grey is neither, each beyond the interval.

    Args:
        rows: Label and one estimate for each panel.
        headings: Of the panels, each with the sign that is better.
        out: Folder.
        name: Name of the files, without ending.
    """
    figure = canvas(len(headings), width=4.4, height=max(1.6, 0.24 * len(rows) + 1.0))
    panels: Any = figure.subplots(1, len(headings), sharey=True, squeeze=False)[0]
    places = np.arange(len(rows))[::-1]
    for panel, (axes, (heading, better)) in enumerate(zip(panels, headings.items(), strict=True)):
        axes.axvline(0, color="0.5", linewidth=1)
        for place, (_, estimates) in zip(places, rows, strict=True):
            found = estimates[panel]
            if not found.known:
                axes.annotate("diverged", (0, place), fontsize=7, color="0.4", va="center")
                continue
            low = found.low if math.isfinite(found.low) else found.value
            high = found.high if math.isfinite(found.high) else found.value
            colour = {1: COLOURS[0], 0: "0.45", -1: COLOURS[1]}[better * found.sign]
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
            axes.plot([found.value], [place], "o", color=colour, markersize=4)
        axes.set(title=heading, yticks=places, yticklabels=[label for label, _ in rows])
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    return save(figure, out, name)


def comparison_intervals(
    comparisons: Sequence[Comparison], out: Path, name: str, label: Callable[[Comparison], str]
) -> tuple[str, ...]:
    """`intervals` of run average, final loss, final loss at equal time and accuracy."""
    headings = {
        "run-average loss, log-ratio": -1,
        "final loss, log-ratio": -1,
        "the same at equal time": -1,
        "validation, points": 1,
    }
    rows = [(label(c), (c.average, c.final, c.later_final, c.accuracy)) for c in comparisons]
    return intervals(rows, headings, out, name)
