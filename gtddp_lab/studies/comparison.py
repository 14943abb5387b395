"""Compare a variant with its base on the same seeds, initial parameters and batches.

Both are compared after equal epochs and after equal wall-clock time.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gtddp_lab.core.printing import figure_text
from gtddp_lab.studies.cell_runner import CellResult, CellRunner
from gtddp_lab.studies.cells import Cell
from gtddp_lab.studies.markdown import markdown_table
from gtddp_lab.studies.statistics import (
    Estimate,
    bootstrap_mean,
    finite_or_none,
    mean_log_ratio,
    variance_change,
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A variant paired with its base.

    Attributes:
        variant: Result of the variant.
        base: Result of the base, with at least as many epochs.
        step_ratio: Time of a step of the variant as a multiple of the base's.
        average: Log-ratio of the mean loss of all batches of the run.
        final: Log-ratio of the training loss after the last epoch.
        accuracy: Difference of the validation accuracy after it, in percentage points.
        variance: Relative change of the variance over seeds of the final training loss.
        equal_time_final: As `final`, with the base after equal time.
        equal_time_accuracy: As `accuracy`, with the base after equal time.
    """

    variant: CellResult
    base: CellResult
    step_ratio: float
    average: Estimate
    final: Estimate
    accuracy: Estimate
    variance: Estimate
    equal_time_final: Estimate
    equal_time_accuracy: Estimate

    @property
    def cell(self) -> Cell:
        """Cell of the variant."""
        return self.variant.cell

    @property
    def json_data(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        estimates = (
            "average",
            "final",
            "accuracy",
            "variance",
            "equal_time_final",
            "equal_time_accuracy",
        )
        return {
            "cell": dataclasses.asdict(self.cell),
            "seeds": len(self.variant.seeds),
            "step_ratio": self.step_ratio,
            "train_loss": [
                finite_or_none(self._base_final.mean()),
                finite_or_none(self._final.mean()),
            ],
            "validation_accuracy": [
                finite_or_none(self._base_accuracy),
                finite_or_none(self._accuracy),
            ],
            "diverged": [int(self.base_diverged.sum()), int(self.variant.diverged.sum())],
            "skipped": list(self.variant.skipped),
            **{name: getattr(self, name).json_data for name in estimates},
        }

    @property
    def base_diverged(self) -> np.ndarray:
        """Which seeds of the base diverged within the variant's epochs: bool [seeds]."""
        return self.base.diverged_after(self.cell.epochs)

    @property
    def _final(self) -> np.ndarray:
        return self.variant.final_figure("train_loss")

    @property
    def _base_final(self) -> np.ndarray:
        return self.base.final_figure("train_loss", self.cell.epochs)

    @property
    def _accuracy(self) -> float:
        return float(100 * self.variant.final_figure("validation_accuracy").mean())

    @property
    def _base_accuracy(self) -> float:
        return float(100 * self.base.final_figure("validation_accuracy", self.cell.epochs).mean())


class _Pairing(NamedTuple):
    """A variant with the base cells that it is compared with.

    Attributes:
        cell: The variant.
        ratio: Time of its step as a multiple of the base's.
        equal_epochs: The base, with at least as many epochs.
        equal_time: The base, with at least as much time.
    """

    cell: Cell
    ratio: float
    equal_epochs: Cell
    equal_time: Cell


def compare_with_base(runner: CellRunner, cells: Iterable[Cell], seeds: int) -> list[Comparison]:
    """Run cells and their bases, and compare them.

    With a constant rate, one longer run of the base serves all its variants. It is read at the time
    that the variant takes, interpolating the logarithm of the loss between epochs. With a schedule,
    the base runs a second time with a schedule of that length.

    Args:
        runner: Runs the cells.
        cells: Variants; the base itself and unsupported variants are left out.
        seeds: Number of seeds.
    """
    ratios = runner.step_ratios(cell for cell in cells if cell.variant != "base")
    pairings = _pair_with_bases(ratios)
    wanted = (
        cell
        for pairing in pairings
        for cell in (pairing.equal_epochs, pairing.equal_time, pairing.cell)
    )
    results = runner.run_cells(wanted, seeds)
    return [
        _compare_results(
            results[pairing.cell],
            results[pairing.equal_epochs],
            results[pairing.equal_time],
            pairing.ratio,
        )
        for pairing in pairings
    ]


def epochs_at_equal_time(epochs: int, ratio: float) -> int:
    """Return how many epochs a method trains while another, `ratio` times as slow, trains `epochs`.

    Rounded up to whole epochs.
    """
    # The tolerance keeps rounding errors of the ratio from adding an epoch.
    return math.ceil(epochs * ratio - 1e-6)


def _pair_with_bases(ratios: Mapping[Cell, float]) -> list[_Pairing]:
    """Choose the runs of the bases, given the ratio of step times of each variant."""
    longer = {
        cell: epochs_at_equal_time(cell.epochs, max(ratio, 1.0)) for cell, ratio in ratios.items()
    }
    longest: dict[Cell, int] = {}
    for cell, epochs in longer.items():
        base = dataclasses.replace(cell.base_cell, epochs=1)
        longest[base] = max(longest.get(base, 0), epochs)
    pairings = []
    for cell, ratio in ratios.items():
        base = dataclasses.replace(cell.base_cell, epochs=1)
        # One run serves both comparisons: its course is read at two times.
        if cell.schedule == "constant":
            equal_epochs = equal_time = dataclasses.replace(base, epochs=longest[base])
        else:
            equal_epochs = cell.base_cell
            equal_time = dataclasses.replace(base, epochs=longer[cell])
        pairings.append(_Pairing(cell, ratio, equal_epochs, equal_time))
    return pairings


def _compare_results(
    variant: CellResult, base: CellResult, equal_time: CellResult, ratio: float
) -> Comparison:
    epochs = variant.cell.epochs
    if variant.cell.schedule == "constant":
        # Time in epochs of the base, within its run.
        at = min(max(epochs * ratio, 1.0), equal_time.cell.epochs)
        # Losses fall exponentially, so their logarithms are interpolated.
        base_log_loss = _interpolate_courses(np.log(equal_time.figures["train_loss"]), at)
        equal_time_loss = np.exp(base_log_loss)
        equal_time_accuracy = _interpolate_courses(equal_time.figures["validation_accuracy"], at)
    else:
        equal_time_loss = equal_time.final_figure("train_loss")
        equal_time_accuracy = equal_time.final_figure("validation_accuracy")
    loss = variant.final_figure("train_loss")
    accuracy = variant.final_figure("validation_accuracy")
    base_loss = base.final_figure("train_loss", epochs)
    base_accuracy = base.final_figure("validation_accuracy", epochs)
    return Comparison(
        variant=variant,
        base=base,
        step_ratio=ratio,
        average=mean_log_ratio(
            variant.mean_figure("average_loss"), base.mean_figure("average_loss", epochs)
        ),
        final=mean_log_ratio(loss, base_loss),
        accuracy=bootstrap_mean(100 * (accuracy - base_accuracy)),
        variance=variance_change(loss, base_loss),
        equal_time_final=mean_log_ratio(loss, equal_time_loss),
        equal_time_accuracy=bootstrap_mean(100 * (accuracy - equal_time_accuracy)),
    )


def _interpolate_courses(courses: np.ndarray, at: float) -> np.ndarray:
    """Interpolate courses [seeds, epochs] linearly after ``at`` epochs, at least one."""
    whole_epochs = math.floor(at)
    if whole_epochs >= courses.shape[1]:
        return courses[:, -1]
    share = at - whole_epochs
    return (1 - share) * courses[:, whole_epochs - 1] + share * courses[:, whole_epochs]


def comparison_table(comparisons: Sequence[Comparison], *columns: str) -> str:
    """Return a Markdown table with one row per comparison.

    Args:
        comparisons: The rows.
        *columns: Keys of `COMPARISON_COLUMNS`; all of them by default.
    """
    names = columns or tuple(COMPARISON_COLUMNS)
    return markdown_table(
        names, ([COMPARISON_COLUMNS[name](row) for name in names] for row in comparisons)
    )


def _loss_text(result: CellResult, epochs: int | None = None) -> str:
    return figure_text(finite_or_none(result.final_figure("train_loss", epochs).mean()), ".4f")


def _losses_text(row: Comparison) -> str:
    return f"{_loss_text(row.base, row.cell.epochs)} → {_loss_text(row.variant)}"


def _diverged_text(row: Comparison) -> str:
    return f"{row.base_diverged.sum()} → {row.variant.diverged.sum()}"


COMPARISON_COLUMNS: dict[str, Callable[[Comparison], str]] = {
    "data": lambda row: row.cell.dataset,
    "network": lambda row: row.cell.network,
    "schedule": lambda row: row.cell.schedule,
    "base, rate": lambda row: f"{row.base.cell.label} {row.cell.rate:g}",
    "method": lambda row: row.cell.label,
    "step cost": lambda row: f"{row.step_ratio:.2f}",
    "training loss": _losses_text,
    "run average, log-ratio": lambda row: row.average.text(),
    "final loss, log-ratio": lambda row: row.final.text(),
    "validation, points": lambda row: row.accuracy.text(),
    "equal time: final loss": lambda row: row.equal_time_final.text(),
    "equal time: validation": lambda row: row.equal_time_accuracy.text(),
    "variance, change": lambda row: row.variance.text(),
    "diverged": _diverged_text,
}
"""Columns of `comparison_table` by heading."""

EQUAL_TIME_COLUMNS = (
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
"""Columns for a comparison after equal epochs and after equal time."""
