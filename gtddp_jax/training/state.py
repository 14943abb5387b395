"""Everything that a run changes, in one tree: what is saved is what there is."""

from typing import Any, NamedTuple

import jax

from gtddp_jax.training.totals import Totals

Params = Any
"""A tree of parameter arrays."""


class TrainState(NamedTuple):
    """A run between two steps. With several seeds at once every array has them as leading axis.

    Attributes:
        params: Parameters.
        opt_state: Optimizer state, running statistics taken out.
        batch_stats: Running statistics of the network's batch normalisations; empty without.
        step: int32, steps taken so far. It is the position in the data as well: which batch comes
            next is a function of seed and step.
        seed: uint32, the run's seed; the random keys of a step are folded from seed and step.
        totals: What the steps of the running epoch add up to.
    """

    params: Params
    opt_state: Any
    batch_stats: Any
    step: jax.Array
    seed: jax.Array
    totals: Totals


OUTSIDE_ANY_BATCH = 2**32 - 1
"""Folded in where a sample's key has its place in the batch, so that the two never coincide."""


def step_key(state: TrainState) -> jax.Array:
    """The random key of the step that comes next, for what all samples share (dropout)."""
    of_step = jax.random.fold_in(jax.random.key(state.seed), state.step)
    return jax.random.fold_in(of_step, OUTSIDE_ANY_BATCH)
