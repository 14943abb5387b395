"""Curvatures with a diagonal P: an optax chain takes the step, and P is read from its state."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core.types import Number, PerSample, PlayerTrees
from gtddp_jax.curvature.base import Curvature, CurvatureState, Policy, StageInputs
from gtddp_jax.network.protocol import PlayerTape, StageIndex

ChainState: TypeAlias = tuple[CurvatureState, ...]
"""The state of an optax chain: one state per transformation."""


def diagonal_quadratic_form(tapes: Mapping[str, PlayerTape], diagonal: PlayerTrees) -> PerSample:
    """`G_i^T diag(d) G_i` of each sample over the players of a stage, [B]."""
    return jnp.stack(
        [tapes[name].sample_gradients.quadratic_form(diagonal[name]) for name in tapes]
    ).sum(0)


@dataclasses.dataclass(frozen=True)
class DiagonalPolicy(Policy):
    """Steps with the base method itself, on the open or on the closed gradient.

    Second moments and momentum are then those of the gradient that the step was made from. The
    alternative, `k - P (closed_gradient - open_gradient)` with P from the open gradient
    (docs/mathematics.md, "3. The collapse"), trained worse with RMSprop: nothing bounds such a step
    where the closed gradient is the larger one (docs/evidence.md, "What was tried").

    Attributes:
        open_gain: the base method's step on the open gradient.
        state: its state after that step.
        diagonal: P, `{player: tree}`; a leaf of shape () stands for a multiple of the identity.
        transformation: the base method.
        state_before: its state before the step.
        inputs: the stage.
    """

    open_gain: PlayerTrees
    state: CurvatureState
    diagonal: PlayerTrees
    transformation: optax.GradientTransformationExtraArgs
    state_before: CurvatureState
    inputs: StageInputs

    @override
    def quadratic_form(self) -> PerSample:
        return diagonal_quadratic_form(self.inputs.tapes, self.diagonal)

    @override
    def closed_loop_step(
        self, open_gradient: PlayerTrees, closed_gradient: PlayerTrees
    ) -> tuple[PlayerTrees, CurvatureState]:
        # The closed gradient replaces the open one, as if the step had only been taken now.
        del open_gradient
        return step_by_player(
            self.transformation, closed_gradient, self.state_before, self.inputs.params
        )


class DiagonalCurvature(Curvature):
    """A diagonal P; subclasses give an optax chain and read P from its state."""

    @property
    @abc.abstractmethod
    def optax_chain(self) -> optax.GradientTransformationExtraArgs:
        """The optax chain whose update on Q_u is the open gain."""

    @abc.abstractmethod
    def current_learning_rate(self, chain_state: ChainState) -> Number:
        """The learning rate of this step, from the chain's state *before* the update."""

    @abc.abstractmethod
    def preconditioner_diagonal(
        self, chain_state: ChainState, learning_rate: Number, params: PlayerTrees
    ) -> PlayerTrees:
        """P in the shapes of the parameters; a leaf of shape () is a multiple of the identity.

        Args:
            chain_state: the chain's state *after* the update.
            learning_rate: the learning rate of this step.
            params: the stage's parameters.
        """

    @override
    def init(self, params: PlayerTrees, stage_index: StageIndex) -> CurvatureState:
        del stage_index
        return self.optax_chain.init(params)

    @override
    def policy(self, inputs: StageInputs, state: CurvatureState) -> Policy:
        # Each access builds a new chain; the policy keeps this one.
        chain = self.optax_chain
        step, after = step_by_player(chain, inputs.gradient, state, inputs.params)
        assert isinstance(state, tuple) and isinstance(after, tuple)
        # The schedule has advanced in `after`; this step used the count in `state`.
        learning_rate = self.current_learning_rate(state)
        diagonal = self.preconditioner_diagonal(after, learning_rate, inputs.params)
        return DiagonalPolicy(step, after, diagonal, chain, state, inputs)


def step_by_player(
    transformation: optax.GradientTransformationExtraArgs,
    gradient: PlayerTrees,
    state: CurvatureState,
    params: PlayerTrees,
) -> tuple[PlayerTrees, CurvatureState]:
    """The update of an optax transformation on `{player: tree}`, and its next state."""
    step, after = transformation.update(gradient, state, params)
    # optax keeps the structure of the gradient, which its annotations do not say.
    trees: Any = step
    return {name: trees[name] for name in gradient}, after
