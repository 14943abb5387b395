"""The complete state of a run as one tree; a checkpoint saves exactly this."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax

from gtddp_lab.training.totals import EpochTotals

Params = Mapping[str, chex.ArrayTree]
"""Parameters by player."""

BatchStats = Mapping[str, Mapping[str, jax.Array]]
"""Running statistics of batch normalizations, by layer; empty without any."""


class RunState(NamedTuple):
    """A run between two steps; with several seeds at once, every array has them as leading axis.

    Attributes:
        params: Parameters.
        opt_state: Optimizer state, without batch statistics.
        batch_stats: Running statistics of the network's batch normalizations; empty without.
        step: int32, steps taken so far. It is also the position in the data, because the next batch
            is a function of seed and step.
        seed: uint32, the seed of the run; the random keys of a step derive from seed and step.
        totals: Sums over the steps of the running epoch.
    """

    params: Params
    opt_state: Any
    batch_stats: BatchStats
    step: jax.Array
    seed: jax.Array
    totals: EpochTotals


def without_batch_stats(opt_state: Any) -> Any:
    """Empties the batch statistics of a game's state; a run stores them once, beside the params."""
    for field in ("batch_stats", "aux"):
        if getattr(opt_state, field, None) is not None:
            opt_state = opt_state._replace(**{field: {}})
    return opt_state


OUTSIDE_ANY_BATCH = 2**32 - 1
"""Folded into keys that all samples share.

Keys of single samples fold in the sample's position in the batch, which is never this large.
"""


def step_key(state: RunState) -> jax.Array:
    """The random key of the next step, for everything that all samples share (dropout)."""
    key_of_step = jax.random.fold_in(jax.random.key(state.seed), state.step)
    return jax.random.fold_in(key_of_step, OUTSIDE_ANY_BATCH)
