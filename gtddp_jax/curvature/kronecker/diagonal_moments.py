"""The method of players without a Kronecker form: EKFAC's rule in the coordinates themselves.

    P = eta / (s + gamma),    s = running mean of B q^2, bias corrected

q is the mean gradient of B samples, so that s estimates the same second moments as EKFAC's mode
"running", and learning rate, damping and momentum mean what they mean for the other players.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import Count, Number, PlayerTrees, Rate, Tree
from gtddp_jax.curvature.base import CurvatureState, Policy, StageInputs
from gtddp_jax.curvature.diagonal import (
    ChainState,
    DiagonalCurvature,
    DiagonalPolicy,
    step_by_player,
)
from gtddp_jax.curvature.kronecker.gain_chain import gain_transformations
from gtddp_jax.curvature.learning_rate import schedule_value
from gtddp_jax.network.protocol import StageIndex


class MomentsState(NamedTuple):
    """The state of the second moments.

    Attributes:
        step_count: int32, the number of steps.
        batch_count: int32, the number of batches with a gradient.
        moments: the running mean of B q^2, in at least float32.
    """

    step_count: Count
    batch_count: Count
    moments: Tree


@dataclasses.dataclass(frozen=True)
class DiagonalMoments(DiagonalCurvature):
    """Damped second moments of each parameter.

    Args:
        learning_rate: eta.
        damping: gamma.
        momentum: decay of the momentum of the preconditioned gradient, or None.
        nesterov: whether to use Nesterov momentum.
        weight_decay: decoupled weight decay, or None.
        decay: decay of s.
        statistics: see `DiagonalCurvature`.
    """

    learning_rate: Rate
    damping: Rate
    momentum: Number | None
    nesterov: bool
    weight_decay: Number | None
    decay: float

    def _chain(self, counted: CountedSamples | None) -> optax.GradientTransformationExtraArgs:
        """The chain for a batch with these samples; `init` needs none."""

        def init(params: optax.Params) -> MomentsState:
            zeros = jax.tree.map(lambda leaf: jnp.zeros_like(upcast(leaf)), params)
            zero = jnp.zeros((), jnp.int32)
            return MomentsState(zero, zero + 0, zeros)

        def update(
            updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
        ) -> tuple[optax.Updates, optax.OptState]:
            del params
            assert counted is not None and isinstance(state, MomentsState)
            samples, any_gradient = counted.count, counted.any

            def next_moment(old: jax.Array, q: jax.Array) -> jax.Array:
                new = samples.astype(old.dtype) * jnp.square(upcast(q))
                # A batch in which no sample has a gradient changes no statistics.
                return jnp.where(any_gradient, self.decay * old + (1 - self.decay) * new, old)

            after = MomentsState(
                state.step_count + 1,
                state.batch_count + any_gradient.astype(jnp.int32),
                jax.tree.map(next_moment, state.moments, updates),
            )
            scale = self._scale(after, state.step_count)
            return jax.tree.map(lambda q, p: (p * q).astype(q.dtype), updates, scale), after

        return optax.chain(
            optax.GradientTransformation(init, update),
            *gain_transformations(
                self.learning_rate, self.momentum, self.nesterov, self.weight_decay
            ),
        )

    def _scale(self, after: MomentsState, step_count: Count) -> Tree:
        """`1 / (s + gamma)` for the moments after a step and the damping at it."""
        gamma = schedule_value(self.damping, step_count)
        # Before the first batch with a gradient s is zero.
        share = 1 - self.decay ** jnp.maximum(after.batch_count, 1)
        return jax.tree.map(
            lambda moment: (1 / (moment / share + gamma)).astype(moment.dtype), after.moments
        )

    @property
    @override
    def optax_chain(self) -> optax.GradientTransformationExtraArgs:
        return self._chain(None)

    @override
    def current_learning_rate(self, chain_state: ChainState) -> Number:
        moments = chain_state[0]
        assert isinstance(moments, MomentsState)
        return schedule_value(self.learning_rate, moments.step_count)

    @override
    def preconditioner_diagonal(
        self, chain_state: ChainState, learning_rate: Number, params: PlayerTrees
    ) -> PlayerTrees:
        del params
        moments = chain_state[0]
        assert isinstance(moments, MomentsState)
        scale = self._scale(moments, moments.step_count - 1)
        diagonal: PlayerTrees = jax.tree.map(lambda leaf: learning_rate * leaf, scale)
        return diagonal

    @override
    def policy(self, inputs: StageInputs, state: CurvatureState) -> Policy:
        # The chain knows the batch, so that the closed gradient has the same scale.
        chain = self._chain(inputs.counted)
        step, after = step_by_player(chain, inputs.gradient, state, inputs.params)
        assert isinstance(state, tuple) and isinstance(after, tuple)
        rate = self.current_learning_rate(state)
        diagonal = self.preconditioner_diagonal(after, rate, inputs.params)
        return DiagonalPolicy(step, after, diagonal, chain, state, inputs, self.statistics)

    @override
    def describe(self, params: PlayerTrees, stage_index: StageIndex) -> dict[str, str]:
        del stage_index
        return dict.fromkeys(params, "diagonal (no Kronecker form)")
