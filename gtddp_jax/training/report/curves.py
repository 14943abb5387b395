"""The charts of loss and accuracy, the summary, and the table of all values."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.report.charts import Chart, chart
from gtddp_jax.training.report.series import (
    QUIET,
    Series,
    against_base,
    log_loss,
    over_seeds,
    points,
)
from gtddp_jax.training.summary import Summary, summarise

OVER_SEEDS = "Line: mean over seeds. Band: smallest to largest seed."
PAIRED = (
    "Mean over seeds of game minus base, paired by seed. Band: its 95 % confidence interval "
    "(Student's t), from two seeds on."
)


class Figure(NamedTuple):
    """A figure of an epoch.

    Attributes:
        key: Identifier in the page.
        title: Name of its chart.
        column: Name of its column.
        log: Whether its logarithm is drawn first.
        value: Its value.
    """

    key: str
    title: str
    column: str
    log: bool
    value: Callable[[EpochRecord], float]


FIGURES = (
    Figure("train-loss", "Training loss after the epoch", "training", True, lambda r: r.train_loss),
    Figure(
        "average-loss",
        "Training loss, mean of the epoch's batches",
        "run average",
        True,
        lambda r: r.average_loss,
    ),
    Figure("validation-loss", "Validation loss", "validation", True, lambda r: r.validation_loss),
    Figure("validation-accuracy", "Validation accuracy (%)", "accuracy %", False, points),
)


def charts(series: Sequence[Series]) -> list[Chart]:
    """Everything over the epochs, and the games against their base."""
    found = [
        chart(
            figure.key,
            figure.title,
            OVER_SEEDS,
            [(one, over_seeds(one.records, figure.value)) for one in series],
            log=figure.log,
        )
        for figure in FIGURES
    ]
    games = [one for one in series if one.base]
    for key, title, value in (
        ("loss-difference", "Log training loss, minus the base's", log_loss),
        ("accuracy-difference", "Validation accuracy, minus the base's (points)", points),
    ):
        found.append(chart(key, title, PAIRED, [(one, against_base(one, value)) for one in games]))
    return [one for one in found if one is not None]


class Row(NamedTuple):
    """A line of the summary; texts, empty where there is nothing to compare."""

    series: Series
    seeds: int
    epochs: int
    final_loss: str
    average_loss: str
    accuracy: str
    loss_gap: str
    accuracy_gap: str
    seconds: str
    skipped: int


@QUIET
def summary(series: Sequence[Series]) -> list[Row]:
    """What a comparison comes to: one line a series."""
    rows: list[Row] = []
    for one in series:
        (found,) = summarise(one.records)
        rows.append(
            Row(
                one,
                found.seeds,
                found.epochs,
                f"{found.final_loss:.4f}",
                f"{found.average_loss:.4f}",
                _accuracy(found),
                _gap(one, log_loss, "+.2f"),
                _gap(one, points, "+.2f"),
                f"{found.seconds:.1f}",
                found.skipped_steps,
            )
        )
    return rows


def _accuracy(found: Summary) -> str:
    percent = f"{100 * found.validation_accuracy:.2f}"
    if found.validation_error is not None:
        percent += f" ± {100 * found.validation_error:.2f}"
    return percent


def _gap(series: Series, value: Callable[[EpochRecord], float], form: str) -> str:
    """The last epoch's difference to the base, with its 95 % confidence interval."""
    curve = against_base(series, value) if series.base else None
    if curve is None or not np.isfinite(curve.middle[-1]):
        return ""
    text = format(curve.middle[-1], form)
    if curve.bands:
        text += f" ± {curve.bands[0][1][-1] - curve.middle[-1]:.2f}"
    return text


class Values(NamedTuple):
    """A series' figures in numbers: one row an epoch, means over seeds, in the order of FIGURES."""

    series: Series
    rows: list[tuple[str, ...]]


def values(series: Sequence[Series]) -> list[Values]:
    """All values of the charts, to six digits."""
    found: list[Values] = []
    for one in series:
        columns = [over_seeds(one.records, figure.value) for figure in FIGURES]
        lines = [curve.middle for curve in columns if curve is not None]
        found.append(
            Values(one, [tuple(f"{v:.6g}" for v in row) for row in zip(*lines, strict=True)])
        )
    return found
