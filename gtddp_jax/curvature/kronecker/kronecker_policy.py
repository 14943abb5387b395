"""The state and the policy of a stage with Kronecker curvature."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Count, Number, PerSample, PlayerTrees, Tree
from gtddp_jax.curvature.base import CurvatureState, Policy
from gtddp_jax.curvature.kronecker.factors import FactorState
from gtddp_jax.curvature.kronecker.operators import PlayerTapes
from gtddp_jax.curvature.kronecker.preconditioner import Preconditioner


class KroneckerState(NamedTuple):
    """The state of one stage.

    Attributes:
        step_count: int32, the number of steps.
        factors: the statistics.
        chain: momentum, weight decay and learning rate (optax).
        other: state of the players without a Kronecker form, under their own method, or `()`.
    """

    step_count: Count
    factors: FactorState
    chain: CurvatureState
    other: CurvatureState


@dataclasses.dataclass(frozen=True)
class KroneckerPolicy(Policy):
    """`k - rate P (closed_gradient - open_gradient)`.

    Momentum and statistics are those of the open gradient, P of this step.

    Attributes:
        open_gain: k, players without a Kronecker form included.
        state: the stage's state after the step.
        preconditioner: P without the learning rate.
        rate: the learning rate, shortened by the norm constraint.
        tapes: the players' tapes.
        other: policy of the players without a Kronecker form, or None.
    """

    open_gain: PlayerTrees
    state: CurvatureState
    preconditioner: Preconditioner
    rate: Number
    tapes: PlayerTapes
    other: Policy | None

    @override
    def quadratic_form(self) -> PerSample:
        # Players are independent here: cooperation is among Kronecker players only.
        form = self.rate * self.preconditioner.quadratic_forms(self.tapes)
        return form if self.other is None else form + self.other.quadratic_form()

    @override
    def closed_loop_step(
        self, open_gradient: PlayerTrees, closed_gradient: PlayerTrees
    ) -> tuple[PlayerTrees, CurvatureState]:
        kronecker_players = self.preconditioner.layouts
        change = {
            name: jax.tree.map(jnp.subtract, closed_gradient[name], open_gradient[name])
            for name in kronecker_players
        }
        # P alone, without momentum: an impulse of feedback lasts one step.
        image = self.preconditioner.multiply_trees(change)
        scaled = {name: self.rate * matrix for name, matrix in image.items()}
        gain = {name: self.open_gain[name] for name in kronecker_players}
        correction = self.preconditioner.to_trees(scaled, gain)
        step: dict[str, Tree] = jax.tree.map(jnp.subtract, gain, dict(correction))
        if self.other is None:
            return step, self.state
        assert isinstance(self.state, KroneckerState)
        other_open, other_closed = (
            {name: tree for name, tree in gradient.items() if name not in kronecker_players}
            for gradient in (open_gradient, closed_gradient)
        )
        # The other method updates its statistics with the closed gradient, this one did not.
        other_step, other_state = self.other.closed_loop_step(other_open, other_closed)
        return {**step, **other_step}, self.state._replace(other=other_state)
