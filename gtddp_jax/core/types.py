"""The words of signatures: arrays with their shapes, in jaxtyping's notation.

`Float[Array, "B n"]` is an array of floating-point numbers, one row of n for each of B samples.
Within one signature a letter has one value. Static type checkers see an array; the shapes are
checked at run time where jaxtyping's import hook is installed, as `tests/package` does.

| letter        | number of                                        |
|---------------|--------------------------------------------------|
| `B`           | samples in a batch (on this device)              |
| `stages`, `T` | stages of the network                            |
| `m`           | parameters of a stage, laid end to end           |
| `N`           | state variables of a group, laid end to end      |

| word          | meaning                                                                  |
|---------------|--------------------------------------------------------------------------|
| `Tree`        | a tree of anything that `jax.tree` knows                                 |
| `Arrays`      | a tree of arrays: parameters, or their gradients or changes              |
| `Outputs`     | a network's outputs: an array [B, ...], or a tree of such                |
| `Batch`       | inputs or targets, as they come: arrays [B, ...] of any kind and dtype   |
| `Rate`        | a number or an optax schedule                                            |
| `AxisName`    | a mapped axis or several of them, None for none                          |
| `Rngs`        | random keys by collection                                                |
"""

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import optax
from jaxtyping import Array, Float, PyTree, Shaped

if TYPE_CHECKING:  # checkers know no trees, see jaxtyping's page on PyTree
    Tree: TypeAlias = Any
    Arrays: TypeAlias = Any
    Outputs: TypeAlias = Any
    Batch: TypeAlias = Any
else:
    Tree = PyTree
    Arrays = PyTree[Shaped[Array, "..."]]
    Outputs = PyTree[Float[Array, "B ..."]]
    Batch = PyTree

Number: TypeAlias = jax.typing.ArrayLike
Rate: TypeAlias = jax.typing.ArrayLike | optax.Schedule
AxisName: TypeAlias = Hashable
Rngs: TypeAlias = Mapping[str, Any] | None
