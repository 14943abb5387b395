"""Curves of runs as a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gtddp_jax.training.differences import Difference, difference
from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.records import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's palette: distinguishable without colour vision."""


class Curves(NamedTuple):
    """One method of one run.

    Attributes:
        label: Its name in the legend.
        records: Its epochs, of all seeds.
        base: The epochs of the base optimizer that it is compared with; none for the base itself.
    """

    label: str
    records: Sequence[EpochRecord]
    base: Sequence[EpochRecord] = ()


def draw(path: Path, title: str, curves: Sequence[Curves]) -> None:
    """Draws loss, accuracy, weights, feedback and differences over the epochs.

    Thin lines are single seeds; a thick line is their mean over the epochs that all have. The band
    of the weights goes from the smallest to the largest of the epoch; that of a difference is the
    95 % confidence interval of its mean over seeds, where there are at least two.

    Args:
        path: The file to write; its ending, .png or .svg, says in what format.
        title: Line above the panels.
        curves: What to draw, one colour each; their records may be missing.

    Raises:
        OSError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(15, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(2, 3).ravel()
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        for axes, panel in zip(panels, PANELS, strict=True):
            panel.draw(axes, curve, colour)
    for axes, panel in zip(panels, PANELS, strict=True):
        axes.set_ylabel(panel.title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if panel.log and any(curve.records for curve in curves):
            axes.set_yscale("log")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.savefig(path, format=path.suffix[1:])


def curves_of(
    experiment: Experiment, records: Sequence[EpochRecord], run: str = ""
) -> list[Curves]:
    """One entry for each method of an experiment, compared with the first one, the base.

    Args:
        experiment: The experiment.
        records: Its epochs so far, possibly none.
        run: A name for the legend that tells its methods from those of other runs.
    """
    base, *_ = methods = experiment.methods()
    by_method = {
        method.name: [record for record in records if record.method == method.name]
        for method in methods
    }
    return [
        Curves(
            f"{method.label} ({run})" if run else method.label,
            by_method[method.name],
            () if method is base else by_method[base.name],
        )
        for method in methods
    ]


def by_seed(
    records: Sequence[EpochRecord], value: Callable[[EpochRecord], float]
) -> dict[int, list[float]]:
    """A figure's course over the epochs, for each seed."""
    courses: dict[int, list[float]] = {}
    for record in sorted(records, key=lambda record: record.epoch):
        courses.setdefault(record.seed, []).append(value(record))
    return courses


def _mean(courses: dict[int, list[float]]) -> np.ndarray:
    common = min(map(len, courses.values()))
    return np.mean([course[:common] for course in courses.values()], axis=0)


def _courses(value: Callable[[EpochRecord], float]) -> Callable[["Axes", Curves, str], None]:
    def draw(axes: "Axes", curve: Curves, colour: str) -> None:
        courses = by_seed(curve.records, value)
        if not courses:
            return
        style: dict[str, Any] = {"color": colour, "marker": "."}
        for course in courses.values():
            axes.plot(range(1, len(course) + 1), course, linewidth=0.7, alpha=0.5, **style)
        mean = _mean(courses)
        axes.plot(range(1, len(mean) + 1), mean, linewidth=2, label=curve.label, **style)

    return draw


def _weights(axes: "Axes", curve: Curves, colour: str) -> None:
    reported = [record for record in curve.records if "weight_mean" in record.report]
    if not reported:
        return
    low, mean, high = (
        _mean(by_seed(reported, lambda record, n=name: record.report[n]))
        for name in ("weight_min", "weight_mean", "weight_max")
    )
    epochs = range(1, len(mean) + 1)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, mean, color=colour, marker=".", linewidth=2, label=curve.label)


def _feedback(axes: "Axes", curve: Curves, colour: str) -> None:
    reported = [record for record in curve.records if record.report.get("feedback_ratio")]
    _courses(lambda record: float(np.mean(record.report["feedback_ratio"])))(
        axes, curve._replace(records=reported), colour
    )


def _difference(
    value: Callable[[EpochRecord], float],
) -> Callable[["Axes", Curves, str], None]:
    def draw(axes: "Axes", curve: Curves, colour: str) -> None:
        found: Difference | None = difference(
            by_seed(curve.records, value), by_seed(curve.base, value)
        )
        if found is None:
            return
        epochs = range(1, len(found.mean) + 1)
        if found.half_width is not None:
            low, high = found.mean - found.half_width, found.mean + found.half_width
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.7)
        axes.plot(epochs, found.mean, color=colour, marker=".", linewidth=2, label=curve.label)

    return draw


class Panel(NamedTuple):
    """One panel: its vertical axis, whether that is logarithmic, and how a curve is drawn."""

    title: str
    log: bool
    draw: Callable[["Axes", Curves, str], None]


PANELS = (
    Panel("training loss after the epoch", True, _courses(lambda record: record.train_loss)),
    Panel(
        "validation accuracy (%)", False, _courses(lambda record: 100 * record.validation_accuracy)
    ),
    Panel("samples' weights: smallest, mean, largest", False, _weights),
    Panel("feedback / open gain, mean of stages", False, _feedback),
    Panel(
        "log training loss, minus base's",
        False,
        _difference(lambda record: float(np.log(max(record.train_loss, 1e-12)))),
    ),
    Panel(
        "validation accuracy (points), minus base's",
        False,
        _difference(lambda record: 100 * record.validation_accuracy),
    ),
)
