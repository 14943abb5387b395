"""Slow, literal versions of the algorithm: what every fast path is tested against."""

from gtddp_jax.reference.collapsed import collapsed_step
from gtddp_jax.reference.dense import (
    DenseStep,
    Gains,
    ddp_step,
    preconditioned,
    with_own_curvature,
)
from gtddp_jax.reference.hessians import HESSIANS
from gtddp_jax.reference.slopes import line_rollout

__all__ = [
    "HESSIANS",
    "DenseStep",
    "Gains",
    "collapsed_step",
    "ddp_step",
    "line_rollout",
    "preconditioned",
    "with_own_curvature",
]
