"""What the steps of an epoch add up to, kept on the device beside what is trained.

Kept there because then nothing crosses to the host at every step, and because a run that is resumed
in the middle of an epoch has what the steps before it had added.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MEAN = "mean"
REDUCTIONS: dict[str, str] = {"weight_min": "min", "weight_max": "max", "skipped_steps": "max"}
"""How a reported quantity is reduced over an epoch's steps; all others by their mean."""

COMBINE: dict[str, tuple[float, Callable[[jax.Array, jax.Array], jax.Array]]] = {
    MEAN: (0.0, jnp.add),
    "min": (np.inf, jnp.minimum),
    "max": (-np.inf, jnp.maximum),
}
"""Where a reduction starts, and how one more step enters."""


class Totals(NamedTuple):
    """Sums and extremes over the steps of the running epoch.

    Attributes:
        steps: int32, number of steps.
        loss: float32, sum of the batches' mean losses, each before its step.
        report: float32 by name; sums of what is reduced by its mean, extremes otherwise. Empty for
            plain optimizers.
    """

    steps: jax.Array
    loss: jax.Array
    report: dict[str, jax.Array]


def _reduction(name: str) -> str:
    return REDUCTIONS.get(name, MEAN)


def empty(report: dict[str, Any]) -> Totals:
    """The totals before the first step.

    Args:
        report: Arrays, or their shapes and dtypes, as every step reports them.
    """
    start = {
        name: jnp.full(entry.shape, COMBINE[_reduction(name)][0], jnp.float32)
        for name, entry in report.items()
    }
    return Totals(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), start)


def add(totals: Totals, loss: jax.Array, report: dict[str, jax.Array]) -> Totals:
    """The totals with one more step."""
    combined = {
        name: COMBINE[_reduction(name)][1](totals.report[name], value.astype(jnp.float32))
        for name, value in report.items()
    }
    return Totals(totals.steps + 1, totals.loss + loss.astype(jnp.float32), combined)


class Figures(NamedTuple):
    """Totals read on the host.

    Attributes:
        loss: Mean loss of the batches so far.
        report: What the optimizer reported, by name; a number, or a list with one per stage.
    """

    loss: float
    report: dict[str, Any]


def read(totals: Totals) -> Figures:
    """Reads totals with at least one step: arrays on the host, of one run."""
    steps = float(totals.steps)
    report = {
        name: (np.asarray(value, np.float64) / (steps if _reduction(name) == MEAN else 1)).tolist()
        for name, value in totals.report.items()
    }
    return Figures(float(totals.loss) / steps, report)
