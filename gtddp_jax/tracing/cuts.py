"""Parts of arrays: blocks of consecutive entries along one axis."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt32


class Cut(NamedTuple):
    """Where an array is cut: along an axis, or nowhere.

    Attributes:
        axis: the axis, or None.
        start: the first entry.
        size: the number of entries.
    """

    axis: int | None
    start: Any = 0
    size: int = 0

    def part(self, x: jax.Array) -> jax.Array:
        """The entries of an array from `start` on."""
        if self.axis is None:
            return x
        return slice_from(x, self.start, self.size, self.axis)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the part of an array."""
        return tuple(self.size if i == self.axis else size for i, size in enumerate(shape))


def slice_from(x: jax.Array, start: Any, size: int, axis: int) -> jax.Array:
    """`size` entries of an array along an axis, from an entry on that is not negative."""
    # JAX counts a signed index from the end if it is negative: three more operations each.
    return jax.lax.dynamic_slice_in_dim(x, jnp.asarray(start).astype(jnp.uint32), size, axis)


@dataclasses.dataclass(frozen=True)
class Partition:
    """Blocks of equally many units; the last one may overlap the one before.

    Attributes:
        units: the number of units.
        size: the number of units in a block.
    """

    units: int
    size: int

    @property
    def count(self) -> int:
        """The number of blocks."""
        return math.ceil(self.units / self.size)

    @property
    def last_start(self) -> int:
        """The first unit of the last block."""
        return self.units - self.size

    def inverse_shares(self) -> list[float]:
        """For each unit, one over the share of blocks that it is in."""
        covers = [0] * self.units
        for number in range(self.count):
            first = min(number * self.size, self.last_start)
            for unit in range(first, first + self.size):
                covers[unit] += 1
        return [self.count / cover for cover in covers]

    def scale(self, x: jax.Array, cut: Cut, axis: int) -> jax.Array:
        """A cut array, each unit over the share of blocks that it is in.

        Args:
            x: the cut of an array.
            cut: the cut, of this partition.
            axis: the axis of `x` that runs over the units.
        """
        inverse = self.inverse_shares()
        if len(set(inverse)) == 1:
            return x * inverse[0]
        part = Cut(0, cut.start, cut.size).part(jnp.asarray(inverse, x.dtype))
        return x * part.reshape([cut.size if i == axis else 1 for i in range(x.ndim)])


UNCUT = Partition(units=1, size=1)
"""Stands for the blocks of what is taken as a whole."""


def block_starts(
    partitions: Sequence[Partition], numbers: UInt32[Array, " partitions"]
) -> Int32[Array, " partitions"]:
    """The first unit of a block of each partition.

    Args:
        partitions: the partitions.
        numbers: uint32, the number of the block of each.
    """
    sizes, last_starts = (
        np.array(values, np.uint32)
        for values in zip(*((part.size, part.last_start) for part in partitions), strict=True)
    )
    return jnp.minimum(numbers * sizes, last_starts).astype(jnp.int32)
