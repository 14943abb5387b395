"""Learning rates: numbers, arrays or optax schedules."""

from typing import Any

import jax
import optax

from gtddp_jax.core.types import Count, Number, Rate
from gtddp_jax.curvature.base import CurvatureState


def schedule_value(schedule: Rate, count: Count | None) -> Number:
    """The value of a number or schedule at step `count`; a number needs no count."""
    if not callable(schedule):
        return schedule
    assert count is not None
    value: Any = schedule(count)
    return value


def schedule_count(state: CurvatureState) -> Count | None:
    """The step count of `optax.scale_by_learning_rate`; a constant rate has none."""
    # A schedule keeps `ScaleByScheduleState`, a constant rate `EmptyState`.
    count: Any = state.count if isinstance(state, optax.ScaleByScheduleState) else None
    return count


def check_learning_rate(method: str, learning_rate: Rate) -> None:
    """Raises `ValueError` unless given a number >= 0, an array or a schedule."""
    # Arrays may be traced, and schedules need a step: neither has a value to check.
    if callable(learning_rate) or isinstance(learning_rate, jax.Array):
        return
    try:
        valid = float(learning_rate) >= 0
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{method}(learning_rate={learning_rate!r}): give a number >= 0 or an optax schedule."
        )
