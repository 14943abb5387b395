"""Arrays on a mesh with axes of type Explicit, as `jax.make_mesh` makes it by default.

The type of such an array tells how it is spread over the devices, and JAX refuses operations whose
result may be spread in several ways. Outside of such a mesh, and on the axes that `shard_map` maps,
nothing here changes an array.
"""

from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec


def explicit_mesh(tree: Any) -> AbstractMesh | None:
    """The mesh with axes of type Explicit over which arrays may be spread; None without one."""
    meshes: list[Any] = [jax.sharding.get_abstract_mesh()]
    # Under `jit` the arrays alone may name a mesh. Outside of it JAX demands `jax.set_mesh`.
    leaves = jax.tree.leaves(tree)
    meshes += [sharding_of(leaf).mesh for leaf in leaves if isinstance(leaf, Tracer)]
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def sharding_of(leaf: Any) -> NamedSharding:
    """How an array is spread over the axes of type Explicit."""
    return jax.typeof(leaf).sharding


def is_spread(x: jax.Array) -> bool:
    """Whether devices hold different parts of `x`, by axes of type Explicit."""
    return any(axes is not None for axes in sharding_of(x).spec) and explicit_mesh(x) is not None


def reshard_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x`, spread over devices as `like` is; both have the same shape."""
    return jax.sharding.reshard(x, sharding_of(like)) if explicit_mesh(like) else x


def replicate(x: jax.Array) -> jax.Array:
    """`x` as a whole on every device."""
    mesh = explicit_mesh(x)
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec())) if mesh else x
