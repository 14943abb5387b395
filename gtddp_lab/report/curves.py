"""Charts of loss and accuracy, the summary table and the table of all values."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gtddp_lab.core.printing import loss_text
from gtddp_lab.report.charts import Chart, draw_chart
from gtddp_lab.report.series import (
    QUIET_NUMPY,
    MethodSeries,
    accuracy_percent,
    difference_to_base,
    log_train_loss,
    mean_over_seeds,
)
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.run_summary import MethodSummary, summarize_records

SEEDS_NOTE = "Line: mean over seeds. Band: smallest to largest value of a seed."
PAIRED_NOTE = (
    "Mean over seeds of method minus base, paired by seed. Band: 95 % confidence interval "
    "(Student's t), for two seeds or more."
)


class EpochMetric(NamedTuple):
    """A quantity recorded for each epoch.

    Attributes:
        key: Identifier in the page.
        title: Title of its chart.
        column: Heading of its column.
        log: Whether its chart shows the logarithmic scale first.
        value: Reads it from a record.
    """

    key: str
    title: str
    column: str
    log: bool
    value: Callable[[EpochRecord], float]


EPOCH_METRICS = (
    EpochMetric(
        "train-loss",
        "Training loss after the epoch",
        "training",
        True,
        lambda record: record.train_loss,
    ),
    EpochMetric(
        "average-loss",
        "Training loss, mean of the epoch's batches",
        "run average",
        True,
        lambda record: record.average_loss,
    ),
    EpochMetric(
        "validation-loss",
        "Validation loss",
        "validation",
        True,
        lambda record: record.validation_loss,
    ),
    EpochMetric(
        "validation-accuracy", "Validation accuracy (%)", "accuracy %", False, accuracy_percent
    ),
)


def draw_charts(series: Sequence[MethodSeries]) -> list[Chart]:
    """Draw every metric over the epochs, and the other methods minus the base."""
    found = [
        draw_chart(
            metric.key,
            metric.title,
            SEEDS_NOTE,
            [(entry, mean_over_seeds(entry.records, metric.value)) for entry in series],
            log=metric.log,
        )
        for metric in EPOCH_METRICS
    ]
    # The base has no base to be compared with.
    compared = [entry for entry in series if entry.base]
    for key, title, value in (
        ("loss-difference", "Log training loss, minus the base's", log_train_loss),
        ("accuracy-difference", "Validation accuracy, minus the base's (points)", accuracy_percent),
    ):
        found.append(
            draw_chart(
                key,
                title,
                PAIRED_NOTE,
                [(entry, difference_to_base(entry, value)) for entry in compared],
            )
        )
    return [entry for entry in found if entry is not None]


class SummaryRow(NamedTuple):
    """A row of the summary; a difference is an empty text if there is nothing to compare."""

    series: MethodSeries
    seeds: int
    epochs: int
    final_loss: str
    average_loss: str
    accuracy: str
    loss_gap: str
    accuracy_gap: str
    seconds: str
    skipped: int


@QUIET_NUMPY
def summary_rows(series: Sequence[MethodSeries]) -> list[SummaryRow]:
    """Summarise each series in one row."""
    rows: list[SummaryRow] = []
    for entry in series:
        (found,) = summarize_records(entry.records)
        rows.append(
            SummaryRow(
                entry,
                found.seeds,
                found.epochs,
                loss_text(found.final_loss),
                loss_text(found.average_loss),
                _accuracy_text(found),
                _difference_text(entry, log_train_loss, "+.2f"),
                _difference_text(entry, accuracy_percent, "+.2f"),
                f"{found.seconds:.1f}",
                found.skipped_steps,
            )
        )
    return rows


def _accuracy_text(found: MethodSummary) -> str:
    percent = f"{100 * found.validation_accuracy:.2f}"
    if found.validation_error is not None:
        percent += f" ± {100 * found.validation_error:.2f}"
    return percent


def _difference_text(series: MethodSeries, value: Callable[[EpochRecord], float], form: str) -> str:
    """Difference to the base after the last epoch, with its 95 % confidence interval."""
    curve = difference_to_base(series, value) if series.base else None
    if curve is None or not np.isfinite(curve.middle[-1]):
        return ""
    text = format(curve.middle[-1], form)
    if curve.bands:
        text += f" ± {curve.bands[0][1][-1] - curve.middle[-1]:.2f}"
    return text


class ValueTable(NamedTuple):
    """Metrics of a series, means over seeds: one row per epoch, in the order of `EPOCH_METRICS`."""

    series: MethodSeries
    rows: list[tuple[str, ...]]


def value_tables(series: Sequence[MethodSeries]) -> list[ValueTable]:
    """Return all values of the charts, to six digits."""
    found: list[ValueTable] = []
    for entry in series:
        columns = [mean_over_seeds(entry.records, metric.value) for metric in EPOCH_METRICS]
        lines = [curve.middle for curve in columns if curve is not None]
        found.append(
            ValueTable(
                entry, [tuple(f"{value:.6g}" for value in row) for row in zip(*lines, strict=True)]
            )
        )
    return found
