"""What the engine needs of a network; `gt.Network` and `gt.from_flax` provide it.

| object     | what                                                                         |
|------------|------------------------------------------------------------------------------|
| `Playable` | a network: stages of players, and its parameters as `{player: tree}`         |
| `Pass`     | one batch: outputs, the players' moves, and the stages again after the moves |

The engine knows parameters by player; `split` and `merge` translate from and to the tree in which
the user holds them.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import AxisName, Batch, Outputs, PerSample, Tree

if TYPE_CHECKING:
    from gtddp_jax.curvature import Move

Players: TypeAlias = Mapping[str, Tree]


class Pass(abc.ABC):
    """One batch through a network.

    Attributes:
        outputs: an array [B, ...] or a tree of such.
        batch_stats: the network's state beside its parameters, after this batch.
    """

    outputs: Outputs
    batch_stats: Tree

    @abc.abstractmethod
    def moves(self, gradient: Outputs, *, feedback: bool) -> "list[dict[str, Move]]":
        """What each player did, stage by stage.

        Args:
            gradient: of each sample's loss by the outputs.
            feedback: whether more than one sum over samples will be asked of a move.
        """

    @abc.abstractmethod
    def replay(self, t: int, new: Players) -> PerSample:
        """`g . (x' - x)` [B] over what is alive after stage t, whose players have moved to `new`.

        Called for the stages in order, after `moves`; only where the pass was made `replayed`.
        """

    @property
    @abc.abstractmethod
    def new_outputs(self) -> Outputs | None:
        """The outputs after the moves, once every stage has been replayed; else None."""


class Playable(abc.ABC):
    """A network as stages of players.

    Attributes:
        stages: `stage.players` are the names of those who act at once, `stage.acts` their moves
            as `gtddp_jax.network.program.Act` describes them.
    """

    stages: tuple[Any, ...]

    @property
    def coupled_stages(self) -> int:
        """So many stages, counted from the first, act before samples are coupled the last time."""
        return 0

    @abc.abstractmethod
    def split(self, params: Tree) -> dict[str, Tree]:
        """Parameters, or a tree like them, as `{player: tree}`.

        Raises:
            NetworkError: they are not the parameters of this network.
        """

    @abc.abstractmethod
    def merge(self, players: Players, like: Tree) -> Tree:
        """The inverse of `split`, in the structure of the tree `like`."""

    @abc.abstractmethod
    def initial_batch_stats(self, batch_stats: Tree, axis_name: AxisName) -> Tree:
        """The state beside the parameters to begin with, checked; `batch_stats` may be None.

        Raises:
            ValueError: it is missing or does not fit the network or the mapped axes.
        """

    @abc.abstractmethod
    def batch_size(self, inputs: Batch) -> int:
        """The number of samples of a batch of inputs."""

    @abc.abstractmethod
    def forward(
        self,
        params: Players,
        inputs: Batch,
        batch_stats: Tree,
        rngs: Tree,
        samples: Samples,
        *,
        replayed: bool,
    ) -> Pass:
        """Runs a training batch.

        Args:
            params: `{player: tree}`.
            inputs: [B, ...].
            batch_stats: the state beside the parameters.
            rngs: random keys by collection, or None.
            samples: the sample axis.
            replayed: whether `Pass.replay` will be asked.
        """


def by_stage(stages: Sequence[Any], players: Players) -> list[dict[str, Any]]:
    """`{player: value}` of each stage."""
    return [{name: players[name] for name in stage.players} for stage in stages]
