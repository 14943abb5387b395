"""Type aliases for signatures: arrays with their shapes, in jaxtyping's notation.

`Float[Array, "B n"]` is an array of floating-point numbers with one row of n for each of B samples.
Within one signature, a letter has one value. Static checkers see an array; shapes are checked at
run time where jaxtyping's import hook is installed (`tests/package/test_shapes.py`).

| letter                        | number of                                                   |
|-------------------------------|-------------------------------------------------------------|
| `B`                           | samples in a batch (on this device)                         |
| `stages`                      | stages of the network                                       |
| `m`                           | parameters of a stage, concatenated                         |
| `G`, `N`                      | groups of samples, state variables of a group (reference)   |
| `groups`, `rows`, `columns`   | blocks of a layer in matrix form and their sizes (Kronecker) |

| alias         | meaning                                                                   |
|---------------|---------------------------------------------------------------------------|
| `Tree`        | any tree of arrays: parameters, gradients, states                         |
| `CallerTree`  | a tree that comes back to its caller with the types that it had           |
| `PlayerTrees` | one tree per player, `{player: tree}`                                     |
| `Outputs`     | a network's outputs: an array [B, ...] or a tree of arrays [B, ...]       |
| `Batch`       | inputs or targets: an array [B, ...] or a tree of arrays [B, ...]         |
| `Inputs`      | one array of inputs [B, ...], of JAX or NumPy, of any dtype               |
| `InputsLike`  | `Inputs`, or their shape and dtype as `jax.ShapeDtypeStruct`              |
| `Loss`        | `loss(outputs, targets) -> [B]`                                           |
| `PerSample`   | one number per sample                                                     |
| `Scalar`, `Flag`, `Count` | an array of shape (): floating-point, boolean, integer        |
| `Number`      | a Python number or an array of shape (), possibly traced                  |
| `Rate`        | a number or an optax schedule                                             |
| `AxisName`    | a mapped axis or a tuple of mapped axes; None without any                 |
"""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

# Static checkers treat jaxtyping's PyTree as Any; the run-time check cannot use chex's trees.
if TYPE_CHECKING:
    import chex

    Tree: TypeAlias = chex.ArrayTree
    Outputs: TypeAlias = chex.ArrayTree
    Batch: TypeAlias = chex.ArrayTree
    CallerTree: TypeAlias = Any
else:
    Tree = PyTree
    Outputs = PyTree[Float[Array, "B ..."]]
    Batch = PyTree
    CallerTree = PyTree

PlayerTrees: TypeAlias = Mapping[str, Tree]
Inputs: TypeAlias = Shaped[Array, "B ..."] | Shaped[np.ndarray, "B ..."]

# Static checkers do not know all attributes of jax.ShapeDtypeStruct.
if TYPE_CHECKING:

    class InputsLike(Protocol):
        """Anything with the shape and the dtype of inputs."""

        @property
        def shape(self) -> tuple[int, ...]:
            """The shape [B, ...]."""
            ...

        @property
        def dtype(self) -> np.dtype:
            """The dtype of the numbers."""
            ...

else:
    InputsLike = Inputs | jax.ShapeDtypeStruct

PerSample: TypeAlias = Float[Array, " B"]
Scalar: TypeAlias = Float[Array, ""]
Flag: TypeAlias = Bool[Array, ""]
Count: TypeAlias = Int[Array, ""]
# Users annotate the arguments of a loss more narrowly than `Outputs` and `Batch`; static checkers
# would refuse such a loss, because arguments are contravariant.
if TYPE_CHECKING:
    Loss: TypeAlias = Callable[[Any, Any], PerSample]
else:
    Loss = Callable[[Outputs, Batch], PerSample]
Number: TypeAlias = float | int | Shaped[Array, ""]
Rate: TypeAlias = Number | optax.Schedule
AxisName: TypeAlias = Hashable
