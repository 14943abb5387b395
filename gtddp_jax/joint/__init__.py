"""The joint game: all layers minimize the common objective together, exactly."""

from gtddp_jax.core.joint_report import JointReport
from gtddp_jax.joint import damping_rules as damping
from gtddp_jax.joint import metrics, step_control
from gtddp_jax.joint.game import JointState
from gtddp_jax.joint.optimizer import joint
from gtddp_jax.joint.rows_step import RowsStep, step_from_rows
from gtddp_jax.joint.terms import Term, supervised_term

__all__ = [
    "JointReport",
    "JointState",
    "RowsStep",
    "Term",
    "damping",
    "joint",
    "metrics",
    "step_control",
    "step_from_rows",
    "supervised_term",
]
