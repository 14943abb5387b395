"""The length of a Newton step on a convex function, and when to stop."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Flag, Scalar

SUFFICIENT_DECREASE = 1e-4
"""Share of the linear decrease that a step must reach (Armijo's rule)."""

SHORTEST = 1e-6
"""Shortest step that is tried."""

UNRESOLVED = 1e3
"""In units of rounding of the function: a smaller decrement is not seen in its values."""


class NewtonProgress(NamedTuple):
    """How far Newton's method has come.

    Attributes:
        unresolved: whether the last decrement was too small to be seen in the function's values.
        finished: whether to stop.
    """

    unresolved: Flag
    finished: Flag


def first_newton_progress() -> NewtonProgress:
    """The progress before the first step."""
    return NewtonProgress(jnp.array(False), jnp.array(False))


def newton_length(
    value_along: Callable[[Scalar], Scalar], decrement: Scalar, progress: NewtonProgress
) -> tuple[Scalar, NewtonProgress]:
    """The length of a Newton step, the first of 1, 1/2, 1/4, ... that lowers the function enough.

    Near the minimum, rounding hides the decrease of the function. There Newton steps square the
    error, so two full steps end the search.

    Args:
        value_along: the function at a length along the step.
        decrement: the square of the Newton decrement, the rate at which the function falls.
        progress: after the last step.
    """
    start = value_along(jnp.zeros_like(decrement))
    unresolved = decrement <= UNRESOLVED * jnp.finfo(start.dtype).eps * jnp.abs(start)

    def is_too_long(length: jax.Array) -> jax.Array:
        enough = value_along(length) <= start - SUFFICIENT_DECREASE * length * decrement
        return ~unresolved & ~enough & (length > SHORTEST)

    length = jax.lax.while_loop(is_too_long, lambda length: 0.5 * length, jnp.ones_like(start))
    # A step that raises the function, or a NaN, is not taken.
    fails = ~unresolved & ~(value_along(length) <= start)
    length = jnp.where(fails, 0.0, length)
    return length, NewtonProgress(unresolved, fails | (unresolved & progress.unresolved))
