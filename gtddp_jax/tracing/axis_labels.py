"""Labels of array axes: equal labels run over the same index.

An axis is a tuple of labels, so that merged axes can be told apart again:

| axis                          | labels      |
|-------------------------------|-------------|
| of length 1                   | ()          |
| of length n                   | (a,)        |
| samples and positions, merged | (a, b)      |

Labels are unified where an operation pairs the entries of two axes. A label may turn out to be a
product of two others, when a later reshape splits it.
"""

from collections.abc import Sequence
from typing import TypeAlias

Axis: TypeAlias = tuple[int, ...]
"""The labels of one axis, in row-major order."""

Axes: TypeAlias = tuple[Axis, ...]
"""The axes of an array."""


ABSENT, MERGED = -1, -2
"""Answers of `AxisLabels.position_of`: no axis, or none that runs over the label alone."""


class AxisLabels:
    """Labels, and which of them are equal or products of others."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._meaning: dict[int, Axis] = {}

    def new_axis(self, size: int) -> Axis:
        """An axis with a label of its own."""
        if size == 1:
            return ()
        self._sizes.append(size)
        return (len(self._sizes) - 1,)

    def new_axes(self, shape: Sequence[int]) -> Axes:
        """Axes with labels of their own."""
        return tuple(self.new_axis(size) for size in shape)

    def size(self, label: int) -> int:
        """The number of entries along a label."""
        return self._sizes[label]

    def resolve(self, axis: Axis) -> Axis:
        """The axis in terms of labels that are neither equal to others nor products."""
        resolved: list[int] = []
        for label in axis:
            meaning = self._meaning.get(label)
            resolved += [label] if meaning is None else self.resolve(meaning)
        return tuple(resolved)

    def position_of(self, axes: Axes, label: int) -> int:
        """Which axis runs over a label alone: its position, `ABSENT` or `MERGED`."""
        resolved = [self.resolve(axis) for axis in axes]
        found = [position for position, axis in enumerate(resolved) if label in axis]
        if not found:
            return ABSENT
        return found[0] if len(found) == 1 and resolved[found[0]] == (label,) else MERGED

    def unify(self, first: Axis, second: Axis) -> bool:
        """Notes that two axes, of which either may be a run of several, have the same entries.

        Returns:
            Whether all of both could be paired. If not, the leading and the trailing labels are
            paired as far as their sizes allow.
        """
        if self._pair_leading(first, second):
            return True
        # Row-major order pairs from the end as well as from the start.
        self._pair_trailing(first, second)
        return False

    def _pair_leading(self, first: Axis, second: Axis) -> bool:
        while True:
            first, second = self.resolve(first), self.resolve(second)
            if not (first and second):
                return not (first or second)
            if first[0] != second[0] and not self._equate(first[0], second[0], is_leading=True):
                return False
            first, second = self._without_common(first, second, is_leading=True)

    def _pair_trailing(self, first: Axis, second: Axis) -> None:
        while True:
            first, second = self.resolve(first), self.resolve(second)
            if not (first and second):
                return
            if first[-1] != second[-1] and not self._equate(
                first[-1], second[-1], is_leading=False
            ):
                return
            first, second = self._without_common(first, second, is_leading=False)

    def _without_common(self, first: Axis, second: Axis, *, is_leading: bool) -> tuple[Axis, Axis]:
        """Both axes without the label that is now common to them."""
        first, second = self.resolve(first), self.resolve(second)
        return (first[1:], second[1:]) if is_leading else (first[:-1], second[:-1])

    def _equate(self, a: int, b: int, *, is_leading: bool) -> bool:
        """Makes two labels begin (or end) with a common one; False if sizes do not allow it."""
        if self._sizes[a] > self._sizes[b]:
            a, b = b, a
        factor, remainder = divmod(self._sizes[b], self._sizes[a])
        if remainder:
            return False
        rest = self.new_axis(factor)
        self._meaning[b] = (a, *rest) if is_leading else (*rest, a)
        return True
