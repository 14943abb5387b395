"""A network as a program: operations on named values, grouped into stages.

| mathematics      | here                                                                     |
|------------------|--------------------------------------------------------------------------|
| stage t          | `Stage`: one or more players that act at the same time                    |
| states x_t       | `Stage.inputs`: the values alive before the stage, as a tuple of arrays   |
| f_t(x, u)        | `Stage.__call__(params, states) -> states` (paper Eq. 7, 8, 13, 26)       |

Each value is written once. A value that a later stage reads again stays alive in between: it is the
shortcut state x_r of paper Eq. 26. Shortcuts need no other bookkeeping.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from gtddp_jax.core.types import PlayerTrees, Tree

ValueId: TypeAlias = int
States: TypeAlias = tuple[Shaped[Array, "B ..."], ...]


@dataclasses.dataclass(frozen=True)
class PlayerOp:
    """A player acts: `target = module(params[name], source)`.

    Attributes:
        name: the player's name.
        module: a flax.linen module; for a player of a traced model, a description from
            `gtddp_jax.network.sample_gradients.layer_descriptions`, which cannot be called.
        source: the value that the player reads.
        target: the value that it writes.
    """

    name: str
    module: Any
    source: ValueId
    target: ValueId

    @property
    def sources(self) -> tuple[ValueId, ...]:
        """The values that are read."""
        return (self.source,)

    def apply(self, player_params: Tree, x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """The output for the player's own parameters and its input [B, ...]."""
        return self.module.apply({"params": player_params}, x)

    def __call__(self, params: PlayerTrees, *xs: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """The output for the parameters of all players and the player's input [B, ...]."""
        # All operations take *xs, so that a stage can run them alike; a player reads one value.
        (x,) = xs
        return self.apply(params[self.name], x)


@dataclasses.dataclass(frozen=True)
class FunctionOp:
    """A function without parameters, which keeps samples apart: `target = function(source)`."""

    function: Callable[[Shaped[Array, "B ..."]], Shaped[Array, "B ..."]]
    label: str
    source: ValueId
    target: ValueId

    @property
    def sources(self) -> tuple[ValueId, ...]:
        """The values that are read."""
        return (self.source,)

    def __call__(self, params: PlayerTrees, *xs: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """Applies the function to its input [B, ...]."""
        del params
        return self.function(*xs)


@dataclasses.dataclass(frozen=True)
class AddOp:
    """A sum of values of one shape: a shortcut's merge, or the outputs of cooperating players."""

    label: str
    sources: tuple[ValueId, ...]
    target: ValueId

    def __call__(self, params: PlayerTrees, *xs: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """Adds its inputs, all [B, ...] of one shape."""
        del params
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total


@dataclasses.dataclass(frozen=True)
class ConcatenateOp:
    """The outputs of parallel branches, one after the other along the last axis."""

    label: str
    sources: tuple[ValueId, ...]
    target: ValueId

    def __call__(self, params: PlayerTrees, *xs: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """Joins its inputs, all [B, ...] of one shape but for the last axis."""
        del params
        return jnp.concatenate(xs, axis=-1)


MergeOp: TypeAlias = AddOp | ConcatenateOp
StageOp: TypeAlias = PlayerOp | FunctionOp | MergeOp


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the state-augmented dynamics, `stage(params, states) -> states`.

    Attributes:
        ops: the operations, in order.
        inputs: identifiers of the states alive before the stage.
        outputs: identifiers of the states alive after it.
    """

    ops: tuple[StageOp, ...]
    inputs: tuple[ValueId, ...]
    outputs: tuple[ValueId, ...]

    @property
    def player_ops(self) -> tuple[PlayerOp, ...]:
        """The operations of the players of this stage."""
        return tuple(op for op in self.ops if isinstance(op, PlayerOp))

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the players that act in this stage, which are keys into `params`."""
        return tuple(player_op.name for player_op in self.player_ops)

    def run(self, params: PlayerTrees, states: States) -> dict[ValueId, Shaped[Array, "B ..."]]:
        """All values of the stage by identifier, inputs included."""
        values = dict(zip(self.inputs, states, strict=True))
        for op in self.ops:
            values[op.target] = op(params, *(values[source] for source in op.sources))
        return values

    def __call__(self, params: PlayerTrees, states: States) -> States:
        """Maps the live states (each [B, ...]) to the next live states."""
        values = self.run(params, states)
        return tuple(values[output] for output in self.outputs)


def close_stages(steps: list[list[StageOp]], source: ValueId, target: ValueId) -> tuple[Stage, ...]:
    """Turns groups of operations into stages, by computing which values are alive between them.

    Args:
        steps: the operations of each stage.
        source: the network's input.
        target: the network's output.
    """
    live: tuple[ValueId, ...] = (target,)
    stages: list[Stage] = []
    # Backward, because a value is alive before a stage if this stage or a later one reads it.
    for ops in reversed(steps):
        written = {op.target for op in ops}
        read = [value for op in ops for value in op.sources]
        # In order of first use, without repetitions; the order of the live states is public.
        inputs = tuple(dict.fromkeys(value for value in (*read, *live) if value not in written))
        stages.append(Stage(tuple(ops), inputs, live))
        live = inputs
    assert live == (source,), "the first stage reads the network input alone"
    return tuple(reversed(stages))
