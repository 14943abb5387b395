"""Parts of arrays: blocks of consecutive entries along one axis."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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
        return jax.lax.dynamic_slice_in_dim(x, self.start, self.size, self.axis)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the part of an array."""
        return tuple(self.size if i == self.axis else size for i, size in enumerate(shape))


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

    def cut(self, axis: int, number: jax.Array) -> Cut:
        """The cut of block `number` along an axis that runs over the units."""
        return Cut(axis, jnp.minimum(number * self.size, self.units - self.size), self.size)

    def inverse_shares(self) -> list[float]:
        """For each unit, one over the share of blocks that it is in."""
        covers = [0] * self.units
        for number in range(self.count):
            first = min(number * self.size, self.units - self.size)
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
