"""The options of the joint game, and its state."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gtddp_jax.core import validation
from gtddp_jax.core.game_warning import GameWarning
from gtddp_jax.core.joint_report import JointReport, empty_joint_report, joint_report_line
from gtddp_jax.core.one_line import short_text
from gtddp_jax.core.types import AxisName, Count, Number, Rate, Scalar, Tree
from gtddp_jax.joint.damping_rules import Damping
from gtddp_jax.joint.losses_objective import NAME
from gtddp_jax.joint.metrics import Metric
from gtddp_jax.joint.step_control import StepRule
from gtddp_jax.joint.terms import Term

SIDES = ("auto", "dual", "primal", "matrix_free")

MATRICES = 3
"""Matrices of the size of the system that are in memory at the same time, at most."""

BEYOND_THE_LIMIT = (
    "joint: a system of {size} unknowns takes {needed:.1e} bytes, more than "
    "memory_limit={limit:.1e}, so that conjugate gradients solve it approximately "
    "(JointReport.linear_residual). For an exact step raise the limit, "
    "joint(..., memory_limit={needed:.1e}), give fewer samples a step, "
    "or halve the system: joint(..., gram_dtype=jnp.float32). If this is what you want, say "
    "joint(..., side='matrix_free')."
)


class JointState(NamedTuple):
    """State of `joint`.

    Attributes:
        step: int32, number of updates so far, skipped ones included.
        previous_step: what momentum remembers, a tree like the parameters.
        damping: state of the damping rule.
        metric: state of the metric.
        report: figures of the last step.
    """

    step: Count
    previous_step: Tree
    damping: Scalar
    metric: Tree
    report: JointReport

    def __repr__(self) -> str:
        line = joint_report_line(self.report)
        return f"JointState(step {short_text(self.step)}, {line})"


@dataclasses.dataclass(frozen=True)
class JointGame:
    """The options of `joint`, checked; see there."""

    terms: Mapping[str, Term] | None
    damping: Damping
    momentum: Rate
    metric: Metric
    step_rule: StepRule
    acceleration: Number | None
    side: str
    chunk: int | None
    gram_dtype: DTypeLike | None
    newton_steps: int
    conjugate_gradient_steps: int
    memory_limit: Number
    axis_name: AxisName

    def __post_init__(self) -> None:
        validation.check_choice("joint", "side", self.side, SIDES)
        if not isinstance(self.metric, Metric):
            raise ValueError(
                f"joint(metric={self.metric!r}): give None or a metric from gtddp_jax.metrics."
            )
        if not isinstance(self.step_rule, StepRule):
            raise ValueError(
                f"joint(step={self.step_rule!r}): give a rule from gtddp_jax.step_control, for "
                "example gtddp_jax.step_control.FixedRate(0.1)."
            )
        for name in ("newton_steps", "conjugate_gradient_steps"):
            _check_count(name, getattr(self, name))
        if self.chunk is not None:
            _check_count("chunk", self.chunk)
        validation.check_positive("joint", memory_limit=self.memory_limit)
        if self.acceleration is not None:
            _check_acceleration(self.acceleration)
        if isinstance(self.momentum, (int, float)) and not 0 <= self.momentum < 1:
            raise ValueError(f"joint(momentum={self.momentum!r}): give a number in [0, 1).")

    @property
    def has_momentum(self) -> bool:
        """Whether d0 may differ from zero."""
        return not (isinstance(self.momentum, (int, float)) and self.momentum == 0)

    def sum_dtype(self) -> Any:
        """The dtype of the Gram matrix and of everything in sample space."""
        if self.gram_dtype is not None:
            return jnp.dtype(self.gram_dtype)
        return jnp.dtype(jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32)

    def resolve_side(self, outputs: int, parameters: int) -> str:
        """Which system is solved: the smaller one, or none that is larger than the limit."""
        if self.side != "auto":
            return self.side
        size = min(outputs, parameters)
        # A tenth more, because the message shows two digits.
        needed = 1.1 * MATRICES * size**2 * self.sum_dtype().itemsize
        if needed > self.memory_limit:
            message = BEYOND_THE_LIMIT.format(size=size, needed=needed, limit=self.memory_limit)
            warnings.warn(message, GameWarning, stacklevel=2)
            return "matrix_free"
        return "dual" if outputs <= parameters else "primal"

    def init(self, params: Tree) -> JointState:
        """The state before the first step."""
        return JointState(
            step=jnp.zeros((), jnp.int32),
            previous_step=jax.tree.map(jnp.zeros_like, params) if self.has_momentum else (),
            damping=jnp.asarray(self.damping.init(), jnp.float32),
            metric=self.metric.init(params),
            report=empty_joint_report((NAME,) if self.terms is None else tuple(self.terms)),
        )

    def momentum_step(self, state: JointState, params: Tree) -> Tree | None:
        """d0, in the dtypes of the parameters; None without momentum."""
        if not self.has_momentum:
            return None
        factor = self.momentum(state.step) if callable(self.momentum) else self.momentum
        return jax.tree.map(
            lambda step, p: (factor * step).astype(p.dtype), state.previous_step, params
        )


def _check_acceleration(bound: object) -> None:
    is_number = isinstance(bound, (int, float)) and not isinstance(bound, bool)
    if not isinstance(bound, jax.Array) and not (is_number and bound > 0):  # type: ignore[operator]
        raise ValueError(
            f"joint(acceleration={bound!r}): give a number > 0, the largest |a| / |d| at which the "
            "acceleration is added, for example 0.75; or None for straight steps."
        )


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"joint({name}={value!r}): give an int >= 1.")
