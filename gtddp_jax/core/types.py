"""The words of signatures: arrays with their shapes, in jaxtyping's notation.

`Float[Array, "B n"]` is an array of floating-point numbers, one row of n for each of B samples.
Within one signature a letter has one value. A static checker sees an array; the shapes are checked
at run time where jaxtyping's import hook is installed (`tests/package/test_shapes.py`).

| letter                        | number of                                                   |
|-------------------------------|-------------------------------------------------------------|
| `B`                           | samples in a batch (on this device)                         |
| `stages`                      | stages of the network                                       |
| `m`                           | parameters of a stage, laid end to end                      |
| `G`, `N`                      | groups of samples, state variables of a group (reference)   |
| `groups`, `rows`, `columns`   | blocks of a layer in matrix form and their sizes (Kronecker) |

| word        | meaning                                                                     |
|-------------|-----------------------------------------------------------------------------|
| `Tree`      | a tree of anything that `jax.tree` knows: parameters, gradients, states     |
| `Outputs`   | a network's outputs: an array [B, ...] or a tree of such                    |
| `Batch`     | inputs or targets, as they come: an array [B, ...] or a tree of such        |
| `Inputs`    | one array of inputs [B, ...], of JAX or NumPy, of any dtype                 |
| `InputsLike` | `Inputs`, or only their shape and dtype, as `jax.ShapeDtypeStruct`           |
| `Loss`      | `loss(outputs, targets) -> [B]`                                             |
| `PerSample` | one number a sample                                                         |
| `Scalar`, `Flag`, `Count` | an array of shape (): floating point, boolean, integer        |
| `Number`    | a Python number or an array of shape (), a traced one included              |
| `Rate`      | a number or an optax schedule                                               |
| `AxisName`  | a mapped axis or a tuple of them, None for none                             |
"""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

if TYPE_CHECKING:  # to static checkers, jaxtyping's PyTree is unknown
    Tree: TypeAlias = Any
    Outputs: TypeAlias = Any
    Batch: TypeAlias = Any
else:
    Tree = PyTree
    Outputs = PyTree[Float[Array, "B ..."]]
    Batch = PyTree

Inputs: TypeAlias = Shaped[Array, "B ..."] | Shaped[np.ndarray, "B ..."]

if TYPE_CHECKING:  # to static checkers, jax.ShapeDtypeStruct is partly unknown

    class InputsLike(Protocol):
        """What has the shape and the dtype of inputs."""

        @property
        def shape(self) -> tuple[int, ...]:
            """[B, ...]."""
            ...

        @property
        def dtype(self) -> Any:
            """Of the numbers."""
            ...

else:
    InputsLike = Inputs | jax.ShapeDtypeStruct

PerSample: TypeAlias = Float[Array, " B"]
Scalar: TypeAlias = Float[Array, ""]
Flag: TypeAlias = Bool[Array, ""]
Count: TypeAlias = Int[Array, ""]
Loss: TypeAlias = Callable[[Outputs, Batch], PerSample]
Number: TypeAlias = float | int | Shaped[Array, ""]
Rate: TypeAlias = Number | optax.Schedule
AxisName: TypeAlias = Hashable
