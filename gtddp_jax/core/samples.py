"""The sample axis: one array axis, and optionally a mapped axis over devices.

With an `axis_name`, each device holds some of the samples, and every reduction over samples is a
sum on the device followed by a collective (`docs/many_devices.md`). `counted_samples.py` has
reductions over the samples that have a gradient.
"""

import dataclasses
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from gtddp_jax.core.types import AxisName, Flag, Number, PerSample, Scalar, Tree

Summed = TypeVar("Summed")


def varying_axes(x: Any) -> frozenset[str]:
    """The mapped axes over which `x` is known to vary; empty outside of `shard_map`."""
    # The attribute depends on the version of JAX.
    array_type: Any = jax.typeof(x)
    if hasattr(array_type, "mat"):  # jax 0.10
        return array_type.mat.varying
    return getattr(array_type, "vma", frozenset())


def to_varying(x: jax.Array, axes: Iterable[str]) -> jax.Array:
    """`x`, marked as varying over the mapped axes `axes`: each device has its own copy."""
    # Casting a value over an axis over which it already varies is an error in JAX.
    missing = tuple(axis for axis in axes if axis not in varying_axes(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def shape_like(x: Any, shape: tuple[int, ...] | None = None) -> Any:
    """The shape of `x`, or another one, with the dtype of `x` and its varying axes."""
    struct = jax.ShapeDtypeStruct(jnp.shape(x) if shape is None else shape, jnp.result_type(x))
    # How a shape names the axes depends on the version of JAX; `eval_shape` knows.
    axes = varying_axes(x)
    return jax.eval_shape(lambda leaf: to_varying(leaf, axes), struct) if axes else struct


@dataclasses.dataclass(frozen=True)
class SampleReductions:
    """Reductions over all samples of a step.

    Attributes:
        local: number of samples on this device.
        axis_name: the mapped axis (or axes) over devices, or None.
    """

    local: int
    axis_name: AxisName = None

    @property
    def count(self) -> Number:
        """Number of samples on all devices."""
        if self.axis_name is None:
            return self.local
        return self.local * jax.lax.psum(1, self.axis_name)

    @property
    def axes(self) -> tuple[Hashable, ...]:
        """The mapped axes over devices; empty without any."""
        if self.axis_name is None:
            return ()
        return self.axis_name if isinstance(self.axis_name, tuple) else (self.axis_name,)

    def local_copy(self, tree: Tree) -> Tree:
        """The tree as a copy of this device, so that derivatives by it are this device's share.

        Under `shard_map`, a derivative by a replicated value would already be summed over devices.
        """
        axes: Any = self.axes
        return jax.tree.map(lambda leaf: to_varying(leaf, axes), tree) if axes else tree

    def keys_per_device(self, keys: Tree) -> Tree:
        """Random keys that differ between devices, from keys that do not."""
        if self.axis_name is None:
            return keys
        # The same key on all devices would drop the same units in all of them.
        device = jax.lax.axis_index(self.axis_name)
        return jax.tree.map(lambda key: jax.random.fold_in(key, device), keys)

    def sum_over_devices(self, tree: Summed) -> Summed:
        """Adds up what each device has summed over its own samples."""
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    def mean_of_sums(self, tree: Tree) -> Tree:
        """Means over all samples, from sums over this device's samples."""
        count = self.count
        return jax.tree.map(lambda leaf: leaf / count, self.sum_over_devices(tree))

    def mean_floats(self, tree: Tree) -> Tree:
        """The tree with floating-point arrays averaged over devices, and all others as they are."""
        if self.axis_name is None:
            return tree
        axis_name: Any = self.axis_name
        return jax.tree.map(
            lambda leaf: (
                jax.lax.pmean(leaf, axis_name)
                if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
                else leaf
            ),
            tree,
        )

    def gather_over_devices(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "all ..."]:
        """The arrays [n, ...] of all devices, concatenated; the same array on each device."""
        if self.axis_name is None:
            return x
        devices = jax.lax.psum(1, self.axis_name)
        # A sum of arrays with one filled row each is known to be replicated, an all-gather is not.
        rows = jnp.zeros((devices, *x.shape), x.dtype)
        filled = rows.at[jax.lax.axis_index(self.axis_name)].set(x)
        return jax.lax.psum(filled, self.axis_name).reshape(-1, *x.shape[1:])

    def mean(self, x: PerSample) -> Scalar:
        """The mean of `x` [local] over all samples."""
        total = x.sum()
        if self.axis_name is not None:
            total = jax.lax.psum(total, self.axis_name)
        return total / self.count

    def min(self, x: Shaped[Array, "..."]) -> Shaped[Array, ""]:
        """The minimum over all samples."""
        minimum = x.min()
        return minimum if self.axis_name is None else jax.lax.pmin(minimum, self.axis_name)

    def max(self, x: Shaped[Array, "..."]) -> Shaped[Array, ""]:
        """The maximum over all samples."""
        maximum = x.max()
        return maximum if self.axis_name is None else jax.lax.pmax(maximum, self.axis_name)

    def all(self, flag: Flag) -> Flag:
        """Whether `flag` holds on every device."""
        # Collectives reduce numbers, not booleans.
        return flag if self.axis_name is None else self.min(flag.astype(jnp.int32)) > 0
