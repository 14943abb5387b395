"""Curves over epochs: every method of every run, over its seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gtddp_jax.training.differences import difference
from gtddp_jax.training.methods import Method
from gtddp_jax.training.plots import by_seed
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.report.collect import Run

COLOURS = 7
"""How many colours the page has for games; base optimizers are drawn in the text's colour."""

DASHES = 4
"""How many kinds of lines the page has, one for each run."""


class Curve(NamedTuple):
    """A figure over the epochs.

    Attributes:
        middle: Its line, one value an epoch; not necessarily finite.
        bands: Pairs (low, high) of lines around it, the widest first.
    """

    middle: list[float]
    bands: list[tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Series:
    """One method of one run.

    Attributes:
        key: Identifier in the page: ``s0``, ``s1``, ...
        label: Name for people.
        run: The run.
        method: The method.
        colour: Number of its colour; None for a base optimizer.
        dash: Number of its kind of line.
        records: Its epochs.
        base: The epochs of the base optimizer that it is compared with; none for the base itself.
    """

    key: str
    label: str
    run: Run
    method: Method
    colour: int | None
    dash: int
    records: list[EpochRecord]
    base: list[EpochRecord]

    @property
    def seeds(self) -> int:
        """Number of seeds with at least one epoch."""
        return len({record.seed for record in self.records})


def series_of(runs: Sequence[Run]) -> list[Series]:
    """Every method of every run that has an epoch, in order."""
    found: list[Series] = []
    games = 0
    for number, run in enumerate(runs):
        base, *_ = methods = run.experiment.methods()
        for method in methods:
            colour = None
            if method.weighs:
                colour, games = games % COLOURS, games + 1
            records = run.of(method.name)
            if records:
                found.append(
                    Series(
                        key=f"s{len(found)}",
                        label=f"{method.label}, {run.short}" if run.short else method.label,
                        run=run,
                        method=method,
                        colour=colour,
                        dash=number % DASHES,
                        records=records,
                        base=[] if method is base else run.of(base.name),
                    )
                )
    return found


Value = Callable[[EpochRecord], float]


QUIET = np.errstate(invalid="ignore", over="ignore")
"""Figures that are not finite come to figures that are not, without a warning."""


@QUIET
def over_seeds(records: Sequence[EpochRecord], value: Value) -> Curve | None:
    """The mean over seeds, and the band from the smallest to the largest.

    Only epochs that all seeds have count: else the line would jump where a seed ends.
    """
    courses = by_seed(records, value)
    if not courses:
        return None
    common = min(map(len, courses.values()))
    table = np.array([course[:common] for course in courses.values()], np.float64)
    band = (table.min(axis=0).tolist(), table.max(axis=0).tolist())
    return Curve(table.mean(axis=0).tolist(), [band] if len(table) > 1 else [])


@QUIET
def against_base(series: Series, value: Value) -> Curve | None:
    """The mean over pairs of the difference to the base, and its 95 % confidence interval."""
    found = difference(by_seed(series.records, value), by_seed(series.base, value))
    if found is None:
        return None
    bands = []
    if found.half_width is not None:
        low, high = found.mean - found.half_width, found.mean + found.half_width
        bands = [(low.tolist(), high.tolist())]
    return Curve(found.mean.tolist(), bands)


def log_loss(record: EpochRecord) -> float:
    """The natural logarithm of the training loss, as ``gtddp plot`` has it."""
    loss = record.train_loss
    return math.nan if math.isnan(loss) else math.log(max(loss, 1e-12))


def points(record: EpochRecord) -> float:
    """Validation accuracy in percent."""
    return 100 * record.validation_accuracy
