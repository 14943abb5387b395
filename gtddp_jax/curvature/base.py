"""The curvature contract: what stands for the inverse of Q_uu in one stage (DESIGN §5, Table 1).

| symbol | meaning                                           | here                    |
|--------|---------------------------------------------------|-------------------------|
| Q_u    | gradient of the Bellman objective, alpha-weighted | `q`, tree of parameters |
| P      | (Q_uu)^-1, the learning rate included             | inside `Policy`         |
| k      | open gain -P Q_u, momentum included               | `Policy.open_gain`      |
| rho    | G_i^T P G_i, before its scale                     | `Policy.quadratic`      |

Everything is per *stage*: trees are `{player: parameters}`, so that a curvature may couple the
players who act at once (Theorem 3). A new method is one file and one line in `__init__.py`.
"""

import abc
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from jaxtyping import Array, Float, Shaped

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.network.program import Stage
from gtddp_jax.players import SampleGradients

State: TypeAlias = Tree


class Place(NamedTuple):
    """Where a stage stands. Static.

    Attributes:
        stage: the stage.
        index: its number, from 0.
        stages: the number of stages.
    """

    stage: Stage
    index: int
    stages: int


class Move(NamedTuple):
    """What one player did in the forward pass.

    Attributes:
        inputs: x, [B, ...].
        adjoints: g_h, the gradient of each sample's loss by the player's output, [B, ...].
        samples: the per-sample gradients G_i by the player's parameters.
    """

    inputs: Shaped[Array, "B ..."]
    adjoints: Float[Array, "B ..."]
    samples: SampleGradients


class Policy(abc.ABC):
    """The affine policy of a stage: its open gain and its answer to what earlier stages do.

    Attributes:
        open_gain: k, `{player: change of the parameters}`.
        state: the curvature's state after this step.
    """

    open_gain: Tree
    state: State

    @abc.abstractmethod
    def quadratic(self, samples: Mapping[str, SampleGradients]) -> PerSample:
        """`G_i^T P G_i` over all players of the stage, [B], >= 0."""

    @abc.abstractmethod
    def respond(self, q_open: Tree, q_closed: Tree) -> tuple[Tree, State]:
        """The final step when feedback turns the stage's gradient `q_open` into `q_closed`.

        Returns:
            The step `{player: change of the parameters}` and the curvature's next state.
        """


class Curvature(abc.ABC):
    """A base method: immutable, holds its hyper-parameters, makes policies."""

    @abc.abstractmethod
    def init(self, params: Tree, place: Place) -> State:
        """The state for one stage with parameters `{player: tree}`."""

    @abc.abstractmethod
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
        """The policy of one stage.

        Args:
            q: Q_u, `{player: tree}`, in the dtype of the parameters.
            state: from `init` or an earlier step.
            params: the stage's parameters.
            moves: the players' inputs, output adjoints and per-sample gradients.
            alpha: the weights of the samples in `q`, [B]; Kronecker statistics use alpha g_h.
            place: the stage.
            samples: the sample axis.
        """

    def describe(self, params: Tree, place: Place) -> dict[str, str]:
        """What each player of a stage gets, for `Network.explain`."""
        del place
        return {name: type(self).__name__ for name in params}
