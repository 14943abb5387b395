"""An exponential average of the iterates of an optax optimizer, kept in its state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_lab.training.state import Params

AVERAGE_DECAY = 0.99
"""Weight of the former average after many steps; the average then reaches back 100 steps."""


class IterateAverageState(NamedTuple):
    """State of `average_iterates`.

    Attributes:
        inner: State of the optimizer.
        steps: int32, steps taken so far.
        average: The average of the parameters after each step, with their tree and shapes.
    """

    inner: optax.OptState
    steps: jax.Array
    average: optax.Params


def average_iterates(
    base: optax.GradientTransformation, decay: float = AVERAGE_DECAY
) -> optax.GradientTransformation:
    """Keep an exponential average of the parameters that an optimizer visits.

    The updates are those of ``base``. The decay of step t is at most (1 + t) / (10 + t), so that
    the initial parameters are soon forgotten.

    Args:
        base: The optimizer.
        decay: Weight of the former average, in [0, 1).
    """

    def init(params: optax.Params) -> IterateAverageState:
        return IterateAverageState(base.init(params), jnp.zeros((), jnp.int32), params)

    def update(
        updates: optax.Updates, state: Any, params: Any = None
    ) -> tuple[optax.Updates, IterateAverageState]:
        updates, inner = base.update(updates, state.inner, params)
        steps = state.steps + 1
        weight = jnp.minimum(decay, (1 + steps) / (10 + steps))
        after: Any = optax.apply_updates(params, updates)
        average = optax.tree.update_moment(after, state.average, weight, order=1)
        return updates, IterateAverageState(inner, steps, average)

    return optax.GradientTransformation(init, update)


def averaged_iterates(state: Any, params: Params) -> Params:
    """Return the average, from the state of `average_iterates` and the current parameters."""
    del params  # schedule-free averages need them
    average: Params = state.average
    return average
