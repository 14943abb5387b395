"""The curvature contract: how one stage preconditions its gradient.

| symbol | meaning                                               | here                      |
|--------|-------------------------------------------------------|---------------------------|
| Q_u    | gradient of the stage, its samples weighted by alpha  | `StageInputs.gradient`    |
| P      | preconditioner, the learning rate included            | inside `Policy`           |
| k      | open gain `-P Q_u`, momentum included                 | `Policy.open_gain`        |
| rho    | `G_i^T P G_i`, up to a factor of the terminal model   | `Policy.quadratic_form()` |

In dynamic programming P is the inverse of Q_uu, the second derivative of the stage's objective by
its parameters; a curvature is what the base method puts in place of Q_uu (docs/mathematics.md, "5.
Curvature"; paper Table 1).

A stage is a set of players (layers) that act at the same time. All trees are `{player: parameters}`
of one stage, so that a curvature may couple its players (Theorem 3). A new method is one file and
one entry in `CURVATURES`.
"""

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import optax

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import PerSample, PlayerTrees, Tree
from gtddp_jax.network.protocol import PlayerTape, StageIndex

if TYPE_CHECKING:
    CurvatureState: TypeAlias = optax.OptState
else:  # run-time checkers cannot resolve optax's recursive type
    CurvatureState = Tree


class StageInputs(NamedTuple):
    """What a curvature sees of one stage in one step.

    Attributes:
        gradient: Q_u, `{player: tree}`, in the dtype of the parameters.
        params: the stage's parameters, `{player: tree}`.
        tapes: the players' inputs, output adjoints and per-sample gradients.
        sample_weights: alpha, the weight of each sample in `gradient`. Kronecker statistics
            multiply the output adjoints by it.
        stage_index: the stage and its place in the network.
        counted: the samples that have a gradient. Statistics are over these alone, so that padding
            changes nothing.
        arguments: further keyword arguments for an optax transformation: `value`, the mean loss of
            the batch, and what the user passed to `update`.
    """

    gradient: PlayerTrees
    params: PlayerTrees
    tapes: Mapping[str, PlayerTape]
    sample_weights: PerSample
    stage_index: StageIndex
    counted: CountedSamples
    arguments: Mapping[str, object] = MappingProxyType({})

    @property
    def samples(self) -> SampleReductions:
        """Reductions over all samples, those without a gradient included."""
        return self.counted.samples

    def restrict(self, players: frozenset[str] | set[str]) -> "StageInputs":
        """The inputs of some of the stage's players."""
        return self._replace(
            # Filtered, not looked up: the order of the players is kept.
            gradient={name: self.gradient[name] for name in self.gradient if name in players},
            params={name: self.params[name] for name in self.params if name in players},
            tapes={name: self.tapes[name] for name in self.tapes if name in players},
        )


class Policy(abc.ABC):
    """The affine policy of a stage: an open gain, and feedback to the stages before it.

    Attributes:
        open_gain: k, `{player: change of the parameters}`.
        state: the curvature's state after a step with the open gain.
    """

    open_gain: PlayerTrees
    state: CurvatureState

    @abc.abstractmethod
    def quadratic_form(self) -> PerSample:
        """`G_i^T P G_i` of each sample over all players of the stage, [B], >= 0."""

    @abc.abstractmethod
    def closed_loop_step(
        self, open_gradient: PlayerTrees, closed_gradient: PlayerTrees
    ) -> tuple[PlayerTrees, CurvatureState]:
        """The stage's step once the rollout has changed the weights of its samples.

        Args:
            open_gradient: Q_u, from which the policy was made.
            closed_gradient: the gradient with the weights of the rollout.

        Returns:
            The step `{player: change of the parameters}` and the curvature's next state.
        """

    def predicted_step(self, gradient: PlayerTrees, step: PlayerTrees) -> PlayerTrees:
        """The step that other stages respond to.

        It is the step itself, except while the base method accumulates gradients and does not move.

        Args:
            gradient: the gradient that the step was made from.
            step: the open gain or the closed-loop step for that gradient.
        """
        del gradient
        return step


class Curvature(abc.ABC):
    """A base method: immutable, holds hyper-parameters, makes the policy of each stage."""

    @abc.abstractmethod
    def init(self, params: PlayerTrees, stage_index: StageIndex) -> CurvatureState:
        """The initial state of one stage with parameters `{player: tree}`."""

    @abc.abstractmethod
    def policy(self, inputs: StageInputs, state: CurvatureState) -> Policy:
        """The policy of one stage in this step.

        Args:
            inputs: the stage's gradient, parameters and samples.
            state: from `init` or from the step before.
        """

    def describe(self, params: PlayerTrees, stage_index: StageIndex) -> dict[str, str]:
        """One cell of text per player, for the table of `Network.explain`."""
        # Only Kronecker curvatures have more to say about a player than the method.
        del stage_index
        return {name: type(self).__name__ for name in params}
