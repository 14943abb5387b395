"""Helpers for the tests of training."""

import jax.numpy as jnp

from gtddp_lab.training import totals
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.state import Params, RunState
from gtddp_lab.training.trainer import Trainer


def records(trainer: Trainer, seed: int, epochs: int) -> list[EpochRecord]:
    """The records of a run without checkpoints."""
    events = run_unit(trainer, (seed,), RunPlan(epochs))
    return [event for event in events if isinstance(event, EpochRecord)]


def state_of(params: Params) -> RunState:
    """A state with the given parameters and no optimizer."""
    zero = jnp.zeros((), jnp.int32)
    return RunState(params, None, {}, zero, zero, totals.empty_totals({}))
