"""An optax transformation as a base method."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core.optax_base import OptaxBase, as_optax_base
from gtddp_jax.core.trees import tree_vdot
from gtddp_jax.core.types import PerSample, PlayerTrees, Tree
from gtddp_jax.curvature.base import Curvature, CurvatureState, Policy, StageInputs
from gtddp_jax.curvature.diagonal import (
    check_statistics,
    diagonal_quadratic_form,
    feedback_step,
)
from gtddp_jax.network.protocol import StageIndex

OWNER = "curvature.FromOptax"


@dataclasses.dataclass(frozen=True)
class FromOptax(Curvature):
    """Takes the updates of an optax transformation for `-P Q_u`.

    The transformation does not say what P is. Feedback needs it only for rho, and estimates it as
    one number per player: the Rayleigh quotient `-q . (u(q) - u(0)) / q . q` of the update u along
    the player's gradient q, at least 0. This is exact for SGD, with or without momentum. For other
    methods prefer the curvature of that name, such as `gtddp_jax.curvature.Adam`.

    The transformation sees one stage at a time: a mask is a function of `{player: tree}`, and
    clipping is by the norm of a stage. With feedback nothing may stand after the game in an
    `optax.chain`, because the game has predicted the step. The transformation may need `value` (it
    gets the mean loss of the batch) and `grad` (the stage's gradient). With `optax.MultiSteps`, the
    stages respond to the steps that would follow if all mini-batches had the same gradient, and the
    report predicts these.

    Args:
        base: the transformation, learning rate included.
        statistics: "closed" makes second moments and momentum from the closed gradient, "open"
            from the open one, as the paper's Table 1 does.

    Raises:
        ValueError: `base` is not an optax transformation, or is one that a game cannot use (line
            searches and others, when `init` is called); `statistics` is unknown, or "open" with
            `optax.MultiSteps`.

    Example:
        >>> import gtddp_jax as gt, optax
        >>> curvature = gt.curvature.FromOptax(optax.lion(3e-4))
    """

    base: optax.GradientTransformation | optax.MultiSteps
    statistics: str = "closed"

    def __post_init__(self) -> None:
        accumulates = as_optax_base(OWNER, self.base).accumulation is not None
        check_statistics(OWNER, self.statistics)
        if accumulates and self.statistics == "open":
            raise ValueError(
                f"{OWNER}(statistics='open'): optax.MultiSteps has no step of which the feedback "
                "could be a part while it accumulates. Use statistics='closed'."
            )

    @override
    def init(self, params: PlayerTrees, stage_index: StageIndex) -> CurvatureState:
        del stage_index
        return as_optax_base(OWNER, self.base).init(params)

    @override
    def policy(self, inputs: StageInputs, state: CurvatureState) -> Policy:
        stage_base = StageBase(as_optax_base(OWNER, self.base), state, inputs)
        gradient, params = inputs.gradient, inputs.params
        open_gain, after = stage_base.compute_step(gradient)
        step = stage_base.predict_step(gradient)
        # Momentum and weight decay move the parameters without a gradient; that is not part of P.
        step_at_zero = stage_base.predict_step(jax.tree.map(jnp.zeros_like, gradient))
        diagonal = {
            name: _rayleigh_quotient(gradient[name], step[name], step_at_zero[name], params[name])
            for name in params
        }
        return OptaxPolicy(open_gain, after, diagonal, stage_base, self.statistics)


class StageBase(NamedTuple):
    """An optax base at the state of one stage.

    Attributes:
        base: the base.
        state: its state before the step.
        inputs: the stage.
    """

    base: OptaxBase
    state: CurvatureState
    inputs: StageInputs

    def compute_step(self, gradient: PlayerTrees) -> tuple[PlayerTrees, CurvatureState]:
        """The base's update for a gradient, and its next state."""
        step, after = self.base.compute_update(
            gradient, self.state, self.inputs.params, self._arguments(gradient)
        )
        return _by_player(step, gradient), after

    def predict_step(self, gradient: PlayerTrees) -> PlayerTrees:
        """The update to predict with; see `OptaxBase.predict_update`."""
        step = self.base.predict_update(
            gradient, self.state, self.inputs.params, self._arguments(gradient)
        )
        return _by_player(step, gradient)

    def _arguments(self, gradient: PlayerTrees) -> dict[str, object]:
        # A `grad` of the user would be that of all stages; the base sees one stage.
        return {**self.inputs.arguments, "grad": gradient}


@dataclasses.dataclass(frozen=True)
class OptaxPolicy(Policy):
    """Steps with the base itself, on the open or on the closed gradient, as `DiagonalPolicy` does.

    Attributes:
        open_gain: the base's step on the open gradient.
        state: its state after that step.
        diagonal: P, `{player: tree}` of leaves of shape ().
        stage_base: the base before the step.
        statistics: one of `diagonal.STATISTICS`.
    """

    open_gain: PlayerTrees
    state: CurvatureState
    diagonal: PlayerTrees
    stage_base: StageBase
    statistics: str

    @override
    def quadratic_form(self) -> PerSample:
        return diagonal_quadratic_form(self.stage_base.inputs.tapes, self.diagonal)

    @override
    def closed_loop_step(
        self, open_gradient: PlayerTrees, closed_gradient: PlayerTrees
    ) -> tuple[PlayerTrees, CurvatureState]:
        if self.statistics == "open":
            step = feedback_step(self.open_gain, self.diagonal, open_gradient, closed_gradient)
            return step, self.state
        return self.stage_base.compute_step(closed_gradient)

    @override
    def predicted_step(self, gradient: PlayerTrees, step: PlayerTrees) -> PlayerTrees:
        if self.stage_base.base.accumulation is None:
            return step
        return self.stage_base.predict_step(gradient)


def _by_player(step: Tree, gradient: PlayerTrees) -> PlayerTrees:
    """The base's step, with the players in the order of the gradient."""
    # optax keeps the structure of the gradient, which its annotations do not say.
    trees: Any = step
    return {name: trees[name] for name in gradient}


def _rayleigh_quotient(gradient: Tree, step: Tree, step_at_zero: Tree, params: Tree) -> Tree:
    """`-q . (u(q) - u(0)) / q . q` as a multiple of the identity for every leaf."""
    squared_norm = tree_vdot(gradient, gradient)
    along = tree_vdot(gradient, optax.tree.sub(step_at_zero, step))
    # Without a gradient there is nothing to estimate P from: it counts as 0, without feedback.
    divisor = jnp.where(squared_norm > 0, squared_norm, 1)
    # A negative quotient would give rho < 0, and feedback that amplifies changes.
    quotient = jnp.where(squared_norm > 0, jnp.maximum(along, 0) / divisor, 0)
    return jax.tree.map(lambda leaf: quotient.astype(leaf.dtype), params)
