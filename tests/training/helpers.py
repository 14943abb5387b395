"""What several tests of training do."""

import jax.numpy as jnp

from gtddp_jax.training import totals
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.runner import Plan, run
from gtddp_jax.training.state import Params, TrainState
from gtddp_jax.training.trainer import Trainer


def records(trainer: Trainer, seed: int, epochs: int) -> list[EpochRecord]:
    """Trains from scratch."""
    events = run(trainer, (seed,), Plan(epochs))
    return [event for event in events if isinstance(event, EpochRecord)]


def state_of(params: Params) -> TrainState:
    """A state with these parameters and no optimizer."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(params, None, {}, zero, zero, totals.empty({}))
