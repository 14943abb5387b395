"""Curvatures with a diagonal P: an optax chain takes the step, and P is read from its state."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core.types import Number, PerSample, PlayerTrees
from gtddp_jax.curvature.base import Curvature, CurvatureState, Policy, StageInputs
from gtddp_jax.network.protocol import PlayerTape, StageIndex

STATISTICS = ("closed", "open")
"""From which gradient second moments and momentum are made."""

ChainState: TypeAlias = tuple[CurvatureState, ...]
"""The state of an optax chain: one state per transformation."""


def diagonal_quadratic_form(tapes: Mapping[str, PlayerTape], diagonal: PlayerTrees) -> PerSample:
    """`G_i^T diag(d) G_i` of each sample over the players of a stage, [B]."""
    return jnp.stack(
        [tapes[name].sample_gradients.quadratic_form(diagonal[name]) for name in tapes]
    ).sum(0)


@dataclasses.dataclass(frozen=True)
class DiagonalPolicy(Policy):
    """Steps on the open gradient, and on the closed one by either rule.

    With closed statistics the base method itself steps on the closed gradient: second moments and
    momentum are those of the gradient that the step was made from. With open statistics, the rule
    of the paper's Table 1, P and the open gain come from the open gradient, and the step is
    `k - P (closed_gradient - open_gradient)` (docs/mathematics.md, "3. The collapse"). Nothing
    bounds that step where the closed gradient is the larger one.

    Attributes:
        open_gain: the base method's step on the open gradient.
        state: its state after that step.
        diagonal: P, `{player: tree}`; a leaf of shape () stands for a multiple of the identity.
        transformation: the base method.
        state_before: its state before the step.
        inputs: the stage.
        statistics: one of `STATISTICS`.
    """

    open_gain: PlayerTrees
    state: CurvatureState
    diagonal: PlayerTrees
    transformation: optax.GradientTransformationExtraArgs
    state_before: CurvatureState
    inputs: StageInputs
    statistics: str

    @override
    def quadratic_form(self) -> PerSample:
        return diagonal_quadratic_form(self.inputs.tapes, self.diagonal)

    @override
    def closed_loop_step(
        self, open_gradient: PlayerTrees, closed_gradient: PlayerTrees
    ) -> tuple[PlayerTrees, CurvatureState]:
        if self.statistics == "open":
            step = feedback_step(self.open_gain, self.diagonal, open_gradient, closed_gradient)
            return step, self.state
        # The closed gradient replaces the open one, as if the step had only been taken now.
        return step_by_player(
            self.transformation, closed_gradient, self.state_before, self.inputs.params
        )


@dataclasses.dataclass(frozen=True)
class DiagonalCurvature(Curvature):
    """A diagonal P; subclasses give an optax chain and read P from its state.

    Args:
        statistics: "closed" or "open": whether second moments and momentum are made from the
            closed gradient, by a step of the base method on it, or from the open one, as in the
            paper's Table 1.
    """

    statistics: str = dataclasses.field(default="closed", kw_only=True)

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
        return DiagonalPolicy(step, after, diagonal, chain, state, inputs, self.statistics)


def check_statistics(name: str, statistics: object) -> None:
    """Raises unless `statistics` is one of `STATISTICS`."""
    if statistics not in STATISTICS:
        raise ValueError(f"{name}(statistics={statistics!r}): supported are {STATISTICS}.")


def feedback_step(
    open_gain: PlayerTrees,
    diagonal: PlayerTrees,
    open_gradient: PlayerTrees,
    closed_gradient: PlayerTrees,
) -> PlayerTrees:
    """`k - P (closed_gradient - open_gradient)`, P the diagonal of the open gradient (Eq. 6, 9)."""
    return {
        name: jax.tree.map(
            lambda k, p, before, after: (k - p * (after - before)).astype(k.dtype),
            open_gain[name],
            diagonal[name],
            open_gradient[name],
            closed_gradient[name],
        )
        for name in open_gain
    }


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
