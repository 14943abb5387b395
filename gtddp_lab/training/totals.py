"""Sums over the steps of an epoch, kept on the device.

They are part of the state for two reasons: no step needs a transfer to the host, and a run that is
resumed within an epoch continues the sums of the steps before.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MEAN_REDUCTION = "mean"
REDUCTIONS: dict[str, str] = {
    "sample_weight_min": "min",
    "sample_weight_max": "max",
    "skipped_steps": "max",  # a running count: its maximum is its last value
}
"""How a diagnostic is reduced over the steps of an epoch; all others are averaged."""

COMBINE_STEPS: dict[str, tuple[float, Callable[[jax.Array, jax.Array], jax.Array]]] = {
    MEAN_REDUCTION: (0.0, jnp.add),
    "min": (np.inf, jnp.minimum),
    "max": (-np.inf, jnp.maximum),
}
"""Initial value of a reduction, and the function that adds one step."""


class EpochTotals(NamedTuple):
    """Sums and extremes over the steps of the running epoch.

    Attributes:
        steps: int32, number of steps.
        loss: float32, sum of the mean losses of the batches, each before its step.
        report: float32 by name; sums of averaged diagnostics, extremes of the others. Empty for
            base optimizers.
    """

    steps: jax.Array
    loss: jax.Array
    report: dict[str, jax.Array]


def _reduction_of(name: str) -> str:
    return REDUCTIONS.get(name, MEAN_REDUCTION)


def empty_totals(report: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> EpochTotals:
    """Returns the totals before the first step.

    Args:
        report: The diagnostics of a step: arrays, or their shapes and dtypes.
    """
    initial = {
        name: jnp.full(entry.shape, COMBINE_STEPS[_reduction_of(name)][0], jnp.float32)
        for name, entry in report.items()
    }
    return EpochTotals(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), initial)


def add_step(totals: EpochTotals, loss: jax.Array, report: dict[str, jax.Array]) -> EpochTotals:
    """Returns the totals with one more step."""
    # float32 also for integers and float64, so that the structure of the state stays the same.
    combined = {
        name: COMBINE_STEPS[_reduction_of(name)][1](totals.report[name], value.astype(jnp.float32))
        for name, value in report.items()
    }
    return EpochTotals(totals.steps + 1, totals.loss + loss.astype(jnp.float32), combined)


ReportEntry = float | list[float]
"""A diagnostic of one name: a number, or a list with one number per stage."""


class EpochFigures(NamedTuple):
    """Totals, converted to Python numbers.

    Attributes:
        loss: Mean loss of the batches so far.
        report: Diagnostics by name; a number, or a list with one number per stage.
    """

    loss: float
    report: dict[str, ReportEntry]


def read_totals(totals: EpochTotals) -> EpochFigures:
    """Converts the totals of one run, on the host, with at least one step."""
    steps = float(totals.steps)  # divides the sums of averaged diagnostics only
    report = {
        name: (
            np.asarray(value, np.float64) / (steps if _reduction_of(name) == MEAN_REDUCTION else 1)
        ).tolist()
        for name, value in totals.report.items()
    }
    return EpochFigures(float(totals.loss) / steps, report)
