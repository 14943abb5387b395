"""What a user writes: layers and blocks of layers. `lowering` turns them into stages."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
from jaxtyping import Array, Shaped

from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.pure_players import as_linen

Function: TypeAlias = Callable[[Shaped[Array, "B ..."]], Shaped[Array, "B ..."]]
"""A layer without parameters."""


BANDIT = "bandit"
"""`Residual(at=...)`: the stage is chosen during training."""


@dataclasses.dataclass(frozen=True)
class Residual:
    """`body(x) + shortcut(x)`: a block with a skip connection (paper Sec. 3.1, 3.2).

    Args:
        body: the layers of the trunk; any number, blocks included.
        shortcut: `None` for the identity, else a layer or a sequence of layers. A parametric layer
            on the shortcut is a second player that acts beside the trunk (paper Eq. 13).
        at: the parametric stage of the body (counted from 0, stages of nested blocks included)
            beside which the first parametric layer of the shortcut acts; further ones act beside
            the stages that follow. Different placements are different games (paper Sec. 3.2). A
            shortcut without parameters is evaluated in stage `at`. "bandit": the sequential game
            chooses among the possible stages while it trains, by how much its steps decrease the
            loss (EXP3; docs/game.md, "Learned placement"). Other games have no placements.

    Example:
        >>> import flax.linen as nn
        >>> import gtddp_jax as gt
        >>> block = gt.Residual([nn.Dense(8), nn.tanh, nn.Dense(4)], shortcut=nn.Dense(4), at=1)
        >>> learned = gt.Residual([nn.Dense(8), nn.tanh, nn.Dense(4)], nn.Dense(4), at="bandit")
    """

    body: "Layer | Sequence[Layer]"
    shortcut: "Layer | Sequence[Layer] | None" = None
    at: int | str = 0

    def __post_init__(self) -> None:
        # A frozen dataclass sets its own fields by object.__setattr__.
        object.__setattr__(self, "body", as_layers(self.body))
        shortcut = () if self.shortcut is None else as_layers(self.shortcut)
        object.__setattr__(self, "shortcut", shortcut)
        if not self.body:
            raise NetworkError("Residual(body=[]): the body is empty; give it at least one layer.")
        # True and False are ints in Python.
        if self.at != BANDIT and (not isinstance(self.at, int) or isinstance(self.at, bool)):
            raise NetworkError(
                f"Residual(at={self.at!r}): `at` must be an int, a body stage, or {BANDIT!r}."
            )


@dataclasses.dataclass(frozen=True)
class Cooperative:
    """Players that read the same input and add their outputs (the module of paper Fig. 7a).

    Args:
        players: two or more parametric modules (linen, nnx, Equinox, or by `player`), whose outputs
            have the same shape.

    Example:
        >>> import flax.linen as nn
        >>> import gtddp_jax as gt
        >>> block = gt.Cooperative([nn.Dense(64), nn.Dense(64)])
    """

    players: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "players", as_layers(self.players))
        if len(self.players) < 2:
            raise NetworkError(
                f"Cooperative with {len(self.players)} player(s): give it two or more modules."
            )
        for player in self.players:
            if not isinstance(player, nn.Module):
                raise NetworkError(
                    f"Cooperative: {player!r} is not a module. Its members are players; "
                    "put parameter-free functions before or after the block."
                )


MERGES = ("sum", "concatenate")
"""How the outputs of parallel branches become one value."""


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Branches side by side on one input, as in an inception block.

    The first parametric layers of all branches act in one stage, the second ones in the next, and
    so on. The output of a shorter branch waits until the last one has finished.

    Args:
        branches: two or more, each a layer or a sequence of layers, blocks included; an empty
            sequence passes the input on. At least one has parameters.
        merge: "sum", of outputs of one shape, or "concatenate", along the last axis.

    Raises:
        NetworkError: fewer than two branches, or an unknown merge.

    Example:
        >>> import flax.linen as nn
        >>> import gtddp_jax as gt
        >>> block = gt.Parallel(
        ...     [nn.Conv(4, (1, 1)), [nn.Conv(2, (1, 1)), nn.relu, nn.Conv(4, (3, 3))], []],
        ...     merge="concatenate",
        ... )
    """

    branches: "Sequence[Layer | Sequence[Layer]]"
    merge: str = "sum"

    def __post_init__(self) -> None:
        if not isinstance(self.branches, (list, tuple)) or len(self.branches) < 2:
            raise NetworkError(
                f"Parallel(branches={self.branches!r}): give it a list of at least two branches, "
                "each a layer or a list of layers."
            )
        object.__setattr__(self, "branches", tuple(map(as_layers, self.branches)))
        if self.merge not in MERGES:
            raise NetworkError(f"Parallel(merge={self.merge!r}): merge must be one of {MERGES}.")


Layer: TypeAlias = nn.Module | Function | Residual | Cooperative | Parallel
"""What a network consists of."""


def as_layers(layers: Layer | Sequence[Layer]) -> tuple[Layer, ...]:
    """A single layer or a sequence of layers, as a tuple."""
    # Not any Sequence: a user's callable may well implement __getitem__ and __len__.
    if isinstance(layers, (list, tuple)):
        return tuple(map(as_linen, layers))
    single: Any = layers
    return (as_linen(single),)
