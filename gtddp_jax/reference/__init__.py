"""Slow, literal definitions of the algorithm, against which the optimizer is tested."""

from gtddp_jax.reference.collapsed import collapsed_step
from gtddp_jax.reference.ddp import (
    DenseStep,
    Gains,
    ddp_step,
    preconditioned_gains,
    stage_curvature_gains,
)
from gtddp_jax.reference.exact_loss_rollout import exact_loss_rollout
from gtddp_jax.reference.hessians import HESSIANS
from gtddp_jax.reference.joint_step import joint_step

__all__ = [
    "HESSIANS",
    "DenseStep",
    "Gains",
    "collapsed_step",
    "ddp_step",
    "exact_loss_rollout",
    "joint_step",
    "preconditioned_gains",
    "stage_curvature_gains",
]
