"""Curves over epochs: each method of each run, aggregated over its seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from gtddp_lab.report.collect import ReportedRun
from gtddp_lab.training.bounded_loss import bounded_loss
from gtddp_lab.training.differences import paired_difference
from gtddp_lab.training.methods import TrainingMethod
from gtddp_lab.training.plots import values_by_seed
from gtddp_lab.training.records import EpochRecord

SERIES_COLOURS = 7
"""Number of colours of the page; the base of a comparison is drawn in the colour of the text."""

SERIES_DASHES = 4
"""Number of line styles of the page, one for each run."""


class Curve(NamedTuple):
    """A quantity over the epochs.

    Attributes:
        middle: The central line, one value per epoch, finite or not.
        bands: Pairs (low, high) of lines around it, the widest first.
    """

    middle: list[float]
    bands: list[tuple[list[float], list[float]]]


@dataclass(frozen=True)
class MethodSeries:
    """One method of one run.

    Attributes:
        key: Identifier in the page: ``s0``, ``s1``, ...
        label: Display name.
        run: The run.
        method: The method.
        colour: Number of its colour; None for the base of the comparison.
        dash: Number of its line style.
        records: Records of its epochs.
        base: Records of the base optimizer of the comparison; empty for the base itself.
    """

    key: str
    label: str
    run: ReportedRun
    method: TrainingMethod
    colour: int | None
    dash: int
    records: list[EpochRecord]
    base: list[EpochRecord]

    @property
    def seeds(self) -> int:
        """Number of seeds with at least one record."""
        return len({record.seed for record in self.records})


def method_series(runs: Sequence[ReportedRun]) -> list[MethodSeries]:
    """Return one series for each method of each run that has a record, in order."""
    all_series: list[MethodSeries] = []
    coloured = 0
    for number, run in enumerate(runs):
        base, *_ = methods = run.experiment.methods()
        for method in methods:
            colour = None
            # The base takes the colour of the text, so only the other methods are counted.
            if method is not base:
                colour, coloured = coloured % SERIES_COLOURS, coloured + 1
            records = run.records_of(method.name)
            if records:
                all_series.append(
                    MethodSeries(
                        key=f"s{len(all_series)}",
                        label=f"{method.label}, {run.short}" if run.short else method.label,
                        run=run,
                        method=method,
                        colour=colour,
                        dash=number % SERIES_DASHES,
                        records=records,
                        base=[] if method is base else run.records_of(base.name),
                    )
                )
    return all_series


RecordValue: TypeAlias = Callable[[EpochRecord], float]


QUIET_NUMPY = np.errstate(invalid="ignore", over="ignore")
"""Suppresses NumPy's warnings about NaN and infinity, which diverged runs contain."""


@QUIET_NUMPY
def mean_over_seeds(records: Sequence[EpochRecord], value: RecordValue) -> Curve | None:
    """Return the mean over seeds, with a band from the smallest to the largest seed.

    Only epochs that all seeds have reached count; otherwise the line would jump where a seed ends.
    """
    courses = values_by_seed(records, value)
    if not courses:
        return None
    # An interrupted run has seeds of different length.
    common = min(map(len, courses.values()))
    table = np.array([course[:common] for course in courses.values()], np.float64)
    band = (table.min(axis=0).tolist(), table.max(axis=0).tolist())
    return Curve(table.mean(axis=0).tolist(), [band] if len(table) > 1 else [])


@QUIET_NUMPY
def difference_to_base(series: MethodSeries, value: RecordValue) -> Curve | None:
    """Return the mean difference to the base, paired by seed, with its 95 % confidence interval."""
    found = paired_difference(
        values_by_seed(series.records, value), values_by_seed(series.base, value)
    )
    if found is None:
        return None
    bands = []
    if found.half_width is not None:
        low, high = found.mean - found.half_width, found.mean + found.half_width
        bands = [(low.tolist(), high.tolist())]
    return Curve(found.mean.tolist(), bands)


def log_train_loss(record: EpochRecord) -> float:
    """Natural logarithm of the training loss."""
    return float(np.log(bounded_loss(record.train_loss)))


def accuracy_percent(record: EpochRecord) -> float:
    """Validation accuracy in percent."""
    return 100 * record.validation_accuracy
