"""The sample axis: one array axis, and optionally a mapped axis over devices (DESIGN §8)."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from gtddp_jax.core.types import AxisName, Flag, PerSample, Scalar, Tree


def varying(x: jax.Array) -> frozenset[str]:
    """The mapped axes over which `x` is known to vary; empty outside of `shard_map`."""
    kind: Any = jax.typeof(x)
    if hasattr(kind, "mat"):  # jax 0.10
        return kind.mat.varying
    return getattr(kind, "vma", frozenset())


def spread(x: jax.Array, axes: Iterable[str]) -> jax.Array:
    """`x` as each device's own copy over the mapped axes `axes`."""
    missing = tuple(axis for axis in axes if axis not in varying(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


@dataclasses.dataclass(frozen=True)
class Samples:
    """Reductions over all samples of a step.

    Attributes:
        local: number of samples on this device.
        axis_name: the mapped axis (or axes) over devices, or None.
    """

    local: int
    axis_name: AxisName = None

    @property
    def count(self) -> Any:
        """Number of samples on all devices."""
        if self.axis_name is None:
            return self.local
        return self.local * jax.lax.psum(1, self.axis_name)

    @property
    def axes(self) -> tuple[Any, ...]:
        """The mapped axes over devices, none, one or more."""
        if self.axis_name is None:
            return ()
        return self.axis_name if isinstance(self.axis_name, tuple) else (self.axis_name,)

    def local_copy(self, tree: Tree) -> Tree:
        """The tree as this device's own, so that derivatives by it are this device's share.

        Under `shard_map` a derivative by a replicated value is summed over the axis already.
        """
        return jax.tree.map(lambda x: spread(x, self.axes), tree) if self.axes else tree

    def own_keys(self, keys: Tree) -> Tree:
        """Random keys that differ between devices."""
        if self.axis_name is None:
            return keys
        index = jax.lax.axis_index(self.axis_name)
        return jax.tree.map(lambda key: jax.random.fold_in(key, index), keys)

    def total(self, tree: Tree) -> Tree:
        """Adds what every device has summed over its own samples."""
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    def mean_of_sums(self, tree: Tree) -> Tree:
        """`(1/B) sum` of a tree of local sums."""
        count = self.count
        return jax.tree.map(lambda leaf: leaf / count, self.total(tree))

    def gathered(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "all ..."]:
        """`x` [n, ...] of all devices, one after the other; the same array on each of them."""
        if self.axis_name is None:
            return x
        devices = jax.lax.psum(1, self.axis_name)
        places = jnp.zeros((devices, *x.shape), x.dtype)
        mine = places.at[jax.lax.axis_index(self.axis_name)].set(x)
        return self.total(mine).reshape(-1, *x.shape[1:])

    def mean(self, x: PerSample) -> Scalar:
        """The mean of `x` [local] over all samples."""
        return self.total(x.sum()) / self.count

    def min(self, x: Shaped[Array, "..."]) -> Shaped[Array, ""]:
        """The minimum over all samples."""
        low = x.min()
        return low if self.axis_name is None else jax.lax.pmin(low, self.axis_name)

    def max(self, x: Shaped[Array, "..."]) -> Shaped[Array, ""]:
        """The maximum over all samples."""
        high = x.max()
        return high if self.axis_name is None else jax.lax.pmax(high, self.axis_name)

    def all(self, flag: Flag) -> Flag:
        """Whether `flag` holds on every device."""
        return flag if self.axis_name is None else self.min(flag.astype(jnp.int32)) > 0
