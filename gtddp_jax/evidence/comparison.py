"""A variant against its base: the same seeds, parameters and batches; equal epochs, equal time."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gtddp_jax.evidence.cells import Cell
from gtddp_jax.evidence.lab import Lab, Result
from gtddp_jax.evidence.statistics import Estimate, log_ratio, mean, variance_change


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A variant paired with its base.

    Attributes:
        ours: The variant's result.
        base: The base's, with as many epochs or more.
        step_ratio: Time of our step over the base's.
        average: Mean loss of the run's batches, log-ratio.
        final: Training loss after the last epoch, log-ratio.
        accuracy: Validation accuracy after it, difference in percentage points.
        variance: Relative change of the final training loss's variance over seeds.
        later_final: As `final`, against the base after the same time.
        later_accuracy: As `accuracy`, against the base after the same time.
    """

    ours: Result
    base: Result
    step_ratio: float
    average: Estimate
    final: Estimate
    accuracy: Estimate
    variance: Estimate
    later_final: Estimate
    later_accuracy: Estimate

    @property
    def cell(self) -> Cell:
        """The variant's cell."""
        return self.ours.cell

    @property
    def data(self) -> dict[str, Any]:
        """Ready for JSON."""
        estimates = ("average", "final", "accuracy", "variance", "later_final", "later_accuracy")
        return {
            "cell": dataclasses.asdict(self.cell),
            "seeds": len(self.ours.seeds),
            "step_ratio": self.step_ratio,
            "train_loss": [_number(self._base_final.mean()), _number(self._final.mean())],
            "validation_accuracy": [_number(self._base_accuracy), _number(self._accuracy)],
            "diverged": [int(self.base_diverged.sum()), int(self.ours.diverged.sum())],
            "skipped": list(self.ours.skipped),
            **{name: getattr(self, name).data for name in estimates},
        }

    @property
    def base_diverged(self) -> np.ndarray:
        """Which seeds of the base diverged within our epochs, [seeds]."""
        return self.base.diverged_after(self.cell.epochs)

    @property
    def _final(self) -> np.ndarray:
        return self.ours.final("train_loss")

    @property
    def _base_final(self) -> np.ndarray:
        return self.base.final("train_loss", self.cell.epochs)

    @property
    def _accuracy(self) -> float:
        return float(100 * self.ours.final("validation_accuracy").mean())

    @property
    def _base_accuracy(self) -> float:
        return float(100 * self.base.final("validation_accuracy", self.cell.epochs).mean())


def compare(lab: Lab, cells: Iterable[Cell], seeds: int) -> list[Comparison]:
    """Runs cells and their bases and pairs them.

    With a constant rate one longer run of the base serves all its variants, read at the moment
    when our time is over (between two epochs: on the straight line through their logarithms). With
    a schedule the base runs once more, with a schedule as long as the time.

    Args:
        lab: Where cells are run.
        cells: Variants; those of the base itself and those that do not fit are left out.
        seeds: Number of seeds.
    """
    ratios = lab.step_ratios(cell for cell in cells if cell.variant != "base")
    longest: dict[Cell, int] = {}
    for cell, ratio in ratios.items():
        epochs = max(cell.epochs, math.ceil(cell.epochs * ratio - 1e-6))
        key = dataclasses.replace(cell.setting, epochs=1)
        if cell.schedule == "constant":
            longest[key] = max(longest.get(key, 0), epochs)
    pairs = []
    for cell, ratio in ratios.items():
        key = dataclasses.replace(cell.setting, epochs=1)
        if cell.schedule == "constant":
            same = later = dataclasses.replace(key, epochs=longest[key])
        else:
            same = cell.setting
            epochs = max(cell.epochs, math.ceil(cell.epochs * ratio - 1e-6))
            later = dataclasses.replace(key, epochs=epochs)
        pairs.append((cell, ratio, same, later))
    found = lab.results((c for pair in pairs for c in (pair[2], pair[3], pair[0])), seeds)
    return [
        _paired(found[cell], found[same], found[later], ratio) for cell, ratio, same, later in pairs
    ]


def _paired(ours: Result, base: Result, later: Result, ratio: float) -> Comparison:
    epochs = ours.cell.epochs
    if ours.cell.schedule == "constant":
        at = min(max(epochs * ratio, 1.0), later.cell.epochs)
        later_loss = np.exp(_between(np.log(later.figures["train_loss"]), at))
        later_accuracy = _between(later.figures["validation_accuracy"], at)
    else:
        later_loss = later.final("train_loss")
        later_accuracy = later.final("validation_accuracy")
    loss, accuracy = ours.final("train_loss"), ours.final("validation_accuracy")
    base_loss = base.final("train_loss", epochs)
    return Comparison(
        ours=ours,
        base=base,
        step_ratio=ratio,
        average=log_ratio(ours.whole("average_loss"), base.whole("average_loss", epochs)),
        final=log_ratio(loss, base_loss),
        accuracy=mean(100 * (accuracy - base.final("validation_accuracy", epochs))),
        variance=variance_change(loss, base_loss),
        later_final=log_ratio(loss, later_loss),
        later_accuracy=mean(100 * (accuracy - later_accuracy)),
    )


def _between(courses: np.ndarray, at: float) -> np.ndarray:
    """Courses [seeds, epochs] after `at` epochs, at least one."""
    low = math.floor(at)
    if low >= courses.shape[1]:
        return courses[:, -1]
    share = at - low
    return (1 - share) * courses[:, low - 1] + share * courses[:, low]


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def table(comparisons: Sequence[Comparison], *columns: str) -> str:
    """A Markdown table, one row a comparison.

    Args:
        comparisons: The rows.
        *columns: Keys of `COLUMNS`; all of them by default.
    """
    names = columns or tuple(COLUMNS)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in comparisons:
        lines.append(f"| {' | '.join(COLUMNS[name](row) for name in names)} |")
    return "\n".join(lines)


def _loss(result: Result, epochs: int | None = None) -> str:
    value = result.final("train_loss", epochs).mean()
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if value < 1e4 else f"{value:.1e}"


def _diverged(row: Comparison) -> str:
    return f"{row.base_diverged.sum()} → {row.ours.diverged.sum()}"


COLUMNS: dict[str, Any] = {
    "data": lambda row: row.cell.dataset,
    "network": lambda row: row.cell.network,
    "batch": lambda row: str(row.cell.batch_size),
    "schedule": lambda row: row.cell.schedule,
    "base, rate": lambda row: f"{row.base.cell.label} {row.cell.rate:g}",
    "method": lambda row: row.cell.label,
    "step cost": lambda row: f"{row.step_ratio:.2f}",
    "training loss": lambda row: f"{_loss(row.base, row.cell.epochs)} → {_loss(row.ours)}",
    "run average, log-ratio": lambda row: row.average.text(),
    "final loss, log-ratio": lambda row: row.final.text(),
    "validation, points": lambda row: row.accuracy.text(),
    "equal time: final loss": lambda row: row.later_final.text(),
    "equal time: validation": lambda row: row.later_accuracy.text(),
    "variance, change": lambda row: row.variance.text(),
    "diverged": _diverged,
}
"""Columns of `table` by their heading."""

BOTH_TIMES = (
    "base, rate",
    "method",
    "step cost",
    "training loss",
    "run average, log-ratio",
    "final loss, log-ratio",
    "validation, points",
    "equal time: final loss",
    "equal time: validation",
)
"""Columns for a comparison at equal epochs and at equal time."""
