"""Curvatures with a diagonal P: an optax chain makes the open gain, its state tells P."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Number, PerSample, Rate, Tree
from gtddp_jax.curvature.base import Curvature, Move, Place, Policy, State
from gtddp_jax.players import SampleGradients


def diagonal_form(samples: Mapping[str, SampleGradients], diagonal: Tree) -> PerSample:
    """`G_i^T diag(d) G_i` over the players of a stage, [B]."""
    return jnp.stack([samples[name].square(diagonal[name]) for name in samples]).sum(0)


@dataclasses.dataclass(frozen=True)
class DiagonalPolicy(Policy):
    """The base's update on Q_u is the open gain; its update on the closed gradient is the step.

    Statistics and momentum are then those of the gradient that the step is made of. With
    `k - P (q_closed - q_open)` instead, P from the open gradient (DESIGN §3), RMSprop trained
    worse: nothing keeps such a step short where the closed gradient is the larger one
    (docs/evidence.md).
    """

    open_gain: Tree
    state: State
    diagonal: Tree
    base: optax.GradientTransformationExtraArgs
    before: State
    params: Tree

    def quadratic(self, samples: Mapping[str, SampleGradients]) -> PerSample:
        """See `Policy`."""
        return diagonal_form(samples, self.diagonal)

    def respond(self, q_open: Tree, q_closed: Tree) -> tuple[Tree, State]:
        """See `Policy`."""
        del q_open
        return self.base.update(q_closed, self.before, self.params)


class DiagonalCurvature(Curvature):
    """Shared by identity, RMSprop and Adam: subclasses give a chain and read P from its state."""

    @property
    @abc.abstractmethod
    def base(self) -> optax.GradientTransformationExtraArgs:
        """The optax chain whose update on Q_u is the open gain."""

    @abc.abstractmethod
    def diagonal(self, state: State, rate: Number, params: Tree) -> Tree:
        """P as a tree of parameter shapes; a leaf of shape () means a multiple of the identity.

        Args:
            state: the chain's state *after* the update.
            rate: the learning rate of this step.
            params: the stage's parameters.
        """

    @abc.abstractmethod
    def rate(self, state: State) -> Number:
        """The learning rate of this step, from the chain's state *before* the update."""

    def init(self, params: Tree, place: Place) -> State:
        """See `Curvature`."""
        del place
        return self.base.init(params)

    def policy(
        self,
        q: Tree,
        state: State,
        params: Tree,
        moves: Mapping[str, Move],
        alpha: PerSample,
        place: Place,
        samples: Samples,
    ) -> Policy:
        """See `Curvature`."""
        del moves, alpha, place, samples
        step, after = self.base.update(q, state, params)
        diagonal = self.diagonal(after, self.rate(state), params)
        return DiagonalPolicy(step, after, diagonal, self.base, state, params)


def rate_now(learning_rate: Rate, state: State) -> Number:
    """The value of `learning_rate`, given the state of `optax.scale_by_learning_rate`."""
    now: Any = learning_rate(state.count) if callable(learning_rate) else learning_rate
    return now


def check_rate(method: str, learning_rate: Rate) -> None:
    """Refuses what is neither a non-negative number, an array nor a schedule."""
    if callable(learning_rate) or isinstance(learning_rate, jax.Array):
        return
    try:
        good = float(learning_rate) >= 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"{method}(learning_rate={learning_rate!r}): give a number >= 0 or an optax schedule."
        )
