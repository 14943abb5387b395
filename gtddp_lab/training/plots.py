"""Draws the curves of runs as a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gtddp_lab.core.drawing import literal_label, load_matplotlib
from gtddp_lab.training.bounded_loss import bounded_loss
from gtddp_lab.training.differences import paired_difference
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""The palette of Okabe and Ito, distinguishable without colour vision."""

BANDS_NOTE = (
    "Lines: means over seeds. Bands: smallest to largest seed; of differences, the 95 % confidence "
    "interval of the mean; of sample weights, smallest to largest weight. Time: of steps only, "
    "without compilation and scoring."
)
"""What the lines and bands of the panels are."""

EPOCH_AXIS = "epoch"
TIME_AXIS = "time (s)"

Metric = Callable[[EpochRecord], float]
"""A number of one epoch."""


class MethodCurves(NamedTuple):
    """The epochs of one method of one run.

    Attributes:
        label: Name in the legend.
        records: The epochs of all seeds.
        base: The epochs of the base optimizer that the method is compared with; empty for the base.
    """

    label: str
    records: Sequence[EpochRecord]
    base: Sequence[EpochRecord] = ()


def draw_curves(path: Path, title: str, curves: Sequence[MethodCurves]) -> None:
    """Draws loss over epochs and over time, accuracy, differences to the base, sample weights.

    Lines are means over the seeds, for the epochs that all seeds have. `BANDS_NOTE`, below the
    panels, says what the bands are.

    Args:
        path: The file to write; its suffix, .png or .svg, determines the format.
        title: Line above the panels.
        curves: The methods, one colour each; their records may be empty.

    Raises:
        OSError: If the file cannot be written.
    """
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(15, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)  # draws without pyplot, which would need a display
    figure.suptitle(literal_label(title))
    figure.supxlabel(BANDS_NOTE, fontsize="small")
    all_axes = figure.subplots(2, 3).ravel()
    for number, given in enumerate(curves):
        curve = given._replace(label=literal_label(given.label))
        colour = COLOURS[number % len(COLOURS)]
        for axes, panel in zip(all_axes, PANELS, strict=True):
            panel.draw_method(axes, curve, colour)
    for axes, panel in zip(all_axes, PANELS, strict=True):
        axes.set_ylabel(panel.title)
        axes.set_xlabel(panel.horizontal)
        if panel.horizontal == EPOCH_AXIS:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if panel.log_scale and any(curve.records for curve in curves):
            axes.set_yscale("log")  # an empty logarithmic axis has no limits to draw
        if axes.get_legend_handles_labels()[0]:
            # A long name must not squeeze the panels.
            axes.legend(fontsize="small").set_in_layout(False)
    figure.savefig(path, format=path.suffix[1:])


def curves_of(
    experiment: Experiment, records: Sequence[EpochRecord], run_name: str = ""
) -> list[MethodCurves]:
    """Returns one entry per method of an experiment, compared with the first one, the base.

    Args:
        experiment: The experiment.
        records: Its epochs so far, possibly none.
        run_name: Added to the legend, to distinguish several runs.
    """
    base, *_ = methods = experiment.methods()
    by_method = {
        method.name: [record for record in records if record.method == method.name]
        for method in methods
    }
    return [
        MethodCurves(
            f"{method.label} ({run_name})" if run_name else method.label,
            by_method[method.name],
            () if method is base else by_method[base.name],
        )
        for method in methods
    ]


def values_by_seed(records: Sequence[EpochRecord], metric: Metric) -> dict[int, list[float]]:
    """The values of a metric over the epochs, for each seed."""
    values: dict[int, list[float]] = {}
    for record in sorted(records, key=lambda record: record.epoch):
        values.setdefault(record.seed, []).append(metric(record))
    return values


def _seed_table(values: dict[int, list[float]]) -> np.ndarray:
    """The values [seeds, epochs] of the epochs that all seeds have."""
    epochs = min(map(len, values.values()))
    return np.array([curve[:epochs] for curve in values.values()], np.float64)


DrawMethod = Callable[["Axes", MethodCurves, str], None]
"""Draws one method in a panel, in the given colour."""


def _draw_metric(metric: Metric, over_time: bool = False) -> DrawMethod:
    def draw_method(axes: "Axes", curve: MethodCurves, colour: str) -> None:
        if not curve.records:
            return
        table = _seed_table(values_by_seed(curve.records, metric))
        places = np.arange(1, table.shape[1] + 1)
        if over_time:
            seconds = _seed_table(values_by_seed(curve.records, lambda record: record.seconds))
            places = seconds.cumsum(axis=1).mean(axis=0)
        if len(table) > 1:
            band = (table.min(axis=0), table.max(axis=0))
            axes.fill_between(places, *band, color=colour, alpha=0.2, linewidth=0)
        style: dict[str, Any] = {"color": colour, "marker": ".", "linewidth": 2}
        axes.plot(places, table.mean(axis=0), label=curve.label, **style)

    return draw_method


def _draw_weights(axes: "Axes", curve: MethodCurves, colour: str) -> None:
    reported = [record for record in curve.records if "sample_weight_mean" in record.report]
    if not reported:
        return

    def mean_of(name: str) -> np.ndarray:
        values = values_by_seed(reported, lambda record: _mean_entry(record, name))
        return _seed_table(values).mean(axis=0)

    mean = mean_of("sample_weight_mean")
    epochs = range(1, len(mean) + 1)
    band = (mean_of("sample_weight_min"), mean_of("sample_weight_max"))
    axes.fill_between(epochs, *band, color=colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, mean, color=colour, marker=".", linewidth=2, label=curve.label)


def _mean_entry(record: EpochRecord, name: str) -> float:
    """A diagnostic of an epoch, averaged over the stages if it has one number per stage."""
    return float(np.mean(record.report[name]))


def _draw_difference(metric: Metric) -> DrawMethod:
    def draw_method(axes: "Axes", curve: MethodCurves, colour: str) -> None:
        difference = paired_difference(
            values_by_seed(curve.records, metric), values_by_seed(curve.base, metric)
        )
        if difference is None:
            return
        mean, half_width = difference.mean, difference.half_width
        epochs = range(1, len(mean) + 1)
        if half_width is not None:
            band = (mean - half_width, mean + half_width)
            axes.fill_between(epochs, *band, color=colour, alpha=0.2, linewidth=0)
        # Above or below this line the method is better or worse than its base.
        axes.axhline(0, color="black", linewidth=0.7)
        axes.plot(epochs, mean, color=colour, marker=".", linewidth=2, label=curve.label)

    return draw_method


class PlotPanel(NamedTuple):
    """A panel: its vertical axis, whether that is logarithmic, how a method is drawn over what."""

    title: str
    log_scale: bool
    draw_method: DrawMethod
    horizontal: str = EPOCH_AXIS


PANELS = (
    PlotPanel(
        "training loss after the epoch", True, _draw_metric(lambda record: record.train_loss)
    ),
    PlotPanel(
        "training loss after the epoch",
        True,
        _draw_metric(lambda record: record.train_loss, over_time=True),
        TIME_AXIS,
    ),
    PlotPanel(
        "validation accuracy (%)",
        False,
        _draw_metric(lambda record: 100 * record.validation_accuracy),
    ),
    PlotPanel(
        "log training loss, minus base's",
        False,
        _draw_difference(lambda record: float(np.log(bounded_loss(record.train_loss)))),
    ),
    PlotPanel("sample weights: smallest, mean, largest", False, _draw_weights),
    PlotPanel(
        "validation accuracy (points), minus base's",
        False,
        _draw_difference(lambda record: 100 * record.validation_accuracy),
    ),
)
