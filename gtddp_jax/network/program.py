"""The lowered form of a network: operations on named values, grouped into stages.

| symbol (DESIGN)  | here                                                                     |
|------------------|--------------------------------------------------------------------------|
| stage t          | `Stage`: one or more players that act at the same time                    |
| states x_t       | `Stage.inputs`: the values alive before the stage, as a tuple of arrays   |
| f_t(x, u)        | `Stage.__call__(params, states) -> states` (Eq. 7, 8, 13, 26)             |

Values are written once. A value that is read again in a later stage is alive in between: that is
the shortcut state x_r of Eq. 26, and no other bookkeeping of shortcuts exists.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaxtyping import Array, Shaped

from gtddp_jax.core.types import Tree

Value = int
Params: TypeAlias = Mapping[str, Tree]
States: TypeAlias = tuple[Shaped[Array, "B ..."], ...]


@dataclasses.dataclass(frozen=True)
class Act:
    """A player acts: `target = module(params[name], source)`.

    `module` is a linen module or, for a player read from a trace, a description from
    `gtddp_jax.players.layers`, which cannot be called.
    """

    name: str
    module: Any
    source: Value
    target: Value

    @property
    def sources(self) -> tuple[Value, ...]:
        """The values that are read."""
        return (self.source,)

    def __call__(self, params: Params, *xs: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """Applies the module to its input [B, ...]."""
        outputs: Any = self.module.apply({"params": params[self.name]}, *xs)
        return outputs


@dataclasses.dataclass(frozen=True)
class Map:
    """A parameter-free function: `target = function(source)`, sample by sample."""

    function: Callable[[Shaped[Array, "B ..."]], Shaped[Array, "B ..."]]
    label: str
    source: Value
    target: Value

    @property
    def sources(self) -> tuple[Value, ...]:
        """The values that are read."""
        return (self.source,)

    def __call__(self, params: Params, *xs: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """Applies the function to its input [B, ...]."""
        del params
        return self.function(*xs)


@dataclasses.dataclass(frozen=True)
class Add:
    """States of the same shape are added: a merge, or the outputs of cooperating players."""

    label: str
    sources: tuple[Value, ...]
    target: Value

    def __call__(self, params: Params, *xs: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """Adds its inputs, all [B, ...] of one shape."""
        del params
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total


Op = Act | Map | Add


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the state-augmented dynamics, `stage(params, states) -> states`.

    Attributes:
        ops: what happens, in order.
        inputs: identifiers of the states alive before the stage.
        outputs: identifiers of the states alive after it.
    """

    ops: tuple[Op, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def acts(self) -> tuple[Act, ...]:
        """The moves of the players of this stage."""
        return tuple(op for op in self.ops if isinstance(op, Act))

    @property
    def players(self) -> tuple[str, ...]:
        """Keys into `params` of the players that act at once in this stage."""
        return tuple(act.name for act in self.acts)

    def run(self, params: Params, states: States) -> dict[Value, Shaped[Array, "B ..."]]:
        """Every value of the stage by identifier, inputs included."""
        values = dict(zip(self.inputs, states, strict=True))
        for op in self.ops:
            values[op.target] = op(params, *(values[v] for v in op.sources))
        return values

    def __call__(self, params: Params, states: States) -> States:
        """Maps the live states (each [B, ...]) to the next live states."""
        values = self.run(params, states)
        return tuple(values[v] for v in self.outputs)


def close_stages(steps: list[list[Op]], source: Value, target: Value) -> tuple[Stage, ...]:
    """Turns groups of operations into stages by computing which values are alive between them."""
    live: tuple[Value, ...] = (target,)
    stages: list[Stage] = []
    for ops in reversed(steps):
        written = {op.target for op in ops}
        read = [v for op in ops for v in op.sources]
        inputs = tuple(dict.fromkeys(v for v in (*read, *live) if v not in written))
        stages.append(Stage(tuple(ops), inputs, live))
        live = inputs
    assert live == (source,), "the first stage reads the network input alone"
    return tuple(reversed(stages))
