"""What the games need of a network; `gt.Network` and `gt.from_flax` implement it.

| object          | meaning                                                                 |
|-----------------|-------------------------------------------------------------------------|
| `StagedNetwork` | a network as stages of players, with its parameters as `{player: tree}` |
| `NetworkPass`   | one batch: outputs, what it records of the players, the replay          |
| `NetworkStage`  | one stage: the players that act at the same time                        |

A player is a layer with parameters, together with these parameters. The games address parameters by
player; `split` and `merge` convert from and to the tree in which the user holds them.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Batch, InputsLike, Outputs, PerSample, PlayerTrees, Tree
from gtddp_jax.network.program import PlayerOp, ValueId
from gtddp_jax.network.sample_gradients.base import SampleGradients

PlayerValue = TypeVar("PlayerValue")


@runtime_checkable
class NetworkStage(Protocol):
    """One step of the state-augmented dynamics.

    `ops` and `outputs` describe the operations of the stage and the values alive after it, as in
    `gtddp_jax.network.program.Stage`; they are empty if these are not known.
    """

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the players that act in this stage."""
        ...

    @property
    def player_ops(self) -> tuple[PlayerOp, ...]:
        """The operations of these players."""
        ...

    @property
    def ops(self) -> tuple[Any, ...]:
        """All operations, in order."""
        ...

    @property
    def outputs(self) -> tuple[ValueId, ...]:
        """Identifiers of the values alive after the stage."""
        ...


class StageIndex(NamedTuple):
    """A stage and its position in the network; static under `jit`.

    Attributes:
        stage: the stage.
        number: its number, counted from 0.
        stage_count: the number of stages of the network.
    """

    stage: NetworkStage
    number: int
    stage_count: int


def stage_indices(stages: Sequence[NetworkStage]) -> list[StageIndex]:
    """All stages of a network with their positions."""
    return [StageIndex(stage, number, len(stages)) for number, stage in enumerate(stages)]


def params_by_stage(
    stages: Sequence[NetworkStage], players: Mapping[str, PlayerValue]
) -> list[dict[str, PlayerValue]]:
    """The entries of `{player: value}` that belong to each stage."""
    return [{name: players[name] for name in stage.players} for stage in stages]


class PlayerTape(NamedTuple):
    """What one forward and backward pass records of a player.

    Attributes:
        inputs: x, the player's inputs, [B, ...].
        output_adjoints: g_h, the gradient of each sample's loss by the player's output, [B, ...].
        sample_gradients: the gradients G_i of each sample's loss by the player's parameters.
    """

    inputs: Shaped[Array, "B ..."]
    output_adjoints: Float[Array, "B ..."]
    sample_gradients: SampleGradients


class NetworkPass(abc.ABC):
    """One training batch through a network.

    Attributes:
        outputs: an array [B, ...] or a tree of arrays [B, ...].
        batch_stats: the network's state beside its parameters, after this batch.
    """

    # Set once by the constructor of a subclass; the forward pass is part of it.
    outputs: Outputs
    batch_stats: Tree

    @abc.abstractmethod
    def player_tapes(self, gradient: Outputs, *, feedback: bool) -> list[dict[str, PlayerTape]]:
        """Propagates gradients backward; returns the tapes of each stage, `{player: tape}`.

        Args:
            gradient: the gradient of each sample's loss by the outputs; None for outputs that have
                no derivative.
            feedback: whether more than one sum over samples will be computed from a tape.
        """

    @abc.abstractmethod
    def replay_stage(self, stage_number: int, new_params: PlayerTrees) -> PerSample:
        """Runs a stage again, on the states after the replay of the stages before it.

        The stages are replayed in order, after `player_tapes`, and only if `StagedNetwork.forward`
        was called with `replayed=True`.

        Args:
            stage_number: the number of the stage, from 0.
            new_params: the new parameters of its players.

        Returns:
            `g . (x' - x)` [B]: the change of the states alive after the stage by their adjoints.
        """

    @property
    @abc.abstractmethod
    def new_outputs(self) -> Outputs | None:
        """The outputs with the new parameters, once every stage has been replayed; else None."""


class StagedNetwork(abc.ABC):
    """A network as stages of players.

    Attributes:
        explainer: describes a network; `gtddp_jax.explain`, which knows curvatures, sets it.
    """

    explainer: ClassVar[Callable[..., str]]

    def explain(
        self, params: Tree | None = None, x: Batch | InputsLike | None = None, curvature: Any = None
    ) -> str:
        """The game on this network as a table: `gtddp_jax.explain(net, params, x, curvature)`."""
        return type(self).explainer(self, params, x, curvature)

    @property
    @abc.abstractmethod
    def stages(self) -> Sequence[NetworkStage]:
        """The stages, in the order in which they act."""

    def placed_networks(self) -> "tuple[StagedNetwork, ...]":
        """The network with each placement of the shortcuts whose stage is chosen in training.

        Placements differ only in the stages in which players of shortcuts act: a player's function
        and its parameters are the same in all. The last of several shortcuts varies fastest.
        """
        return (self,)

    @property
    def coupled_stages(self) -> int:
        """The number of stages up to the last operation that couples samples (BatchNorm)."""
        # Most networks keep samples apart.
        return 0

    @abc.abstractmethod
    def split(self, params: Tree) -> PlayerTrees:
        """Parameters, or a tree of the same structure, as `{player: tree}`.

        Raises:
            NetworkError: they are not the parameters of this network.
        """

    @abc.abstractmethod
    def merge(self, players: PlayerTrees, like: Tree) -> Tree:
        """The inverse of `split`, in the structure of the tree `like`."""

    @abc.abstractmethod
    def initial_batch_stats(self, batch_stats: Tree | None, axis_name: AxisName) -> Tree:
        """The checked initial state beside the parameters.

        Args:
            batch_stats: the state; None if there is none.
            axis_name: the mapped axis over devices.

        Raises:
            ValueError: it is missing or does not fit the network or the mapped axes.
        """

    @abc.abstractmethod
    def check_axes(self, axis_name: AxisName) -> None:
        """Raises unless the network communicates over no other mapped axes than these.

        Args:
            axis_name: the mapped axis over devices.
        """

    @abc.abstractmethod
    def batch_size(self, inputs: Batch) -> int:
        """The number of samples of a batch of inputs."""

    @abc.abstractmethod
    def forward(
        self,
        params: PlayerTrees,
        inputs: Batch,
        batch_stats: Tree,
        rngs: Mapping[str, PRNGKeyArray] | None,
        samples: SampleReductions,
        *,
        replayed: bool,
    ) -> NetworkPass:
        """Runs a training batch.

        Args:
            params: `{player: tree}`.
            inputs: [B, ...].
            batch_stats: the state beside the parameters.
            rngs: random keys by collection, or None.
            samples: the sample axis.
            replayed: whether `NetworkPass.replay_stage` will be called.
        """
