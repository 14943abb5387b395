"""Where each value keeps its samples, found by tracing a model with two batch sizes.

| value                      | shapes at sizes n and m      | sample axis            |
|----------------------------|------------------------------|------------------------|
| activations                | [n, T, d], [m, T, d]         | axis 0, 1 row a sample |
| positions merged, batch first | [n T, d], [m T, d]        | axis 0, T rows         |
| a mask, a batch statistic  | [T, T], [T, T]               | none                   |
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

from gtddp_jax.flax_models.program import Program, Value
from gtddp_jax.network.errors import NetworkError


class Axis(NamedTuple):
    """A sample axis.

    Attributes:
        axis: which axis of the array.
        rows: how many neighbouring rows of it belong to one sample.
    """

    axis: int
    rows: int

    def front(self, x: jax.Array) -> jax.Array:
        """`x` as [B, ...], with the rows of a sample, if there are several, as the next axis."""
        x = x if self.axis == 0 else jax.numpy.moveaxis(x, self.axis, 0)
        return x if self.rows == 1 else x.reshape(-1, self.rows, *x.shape[1:])

    def back(self, x: jax.Array) -> jax.Array:
        """The inverse of `front`."""
        x = x if self.rows == 1 else x.reshape(-1, *x.shape[2:])
        return x if self.axis == 0 else jax.numpy.moveaxis(x, 0, self.axis)

    def spread(self, w: jax.Array, ndim: int) -> jax.Array:
        """One number a sample, shaped for multiplication with an array of `ndim` axes."""
        w = w if self.rows == 1 else jax.numpy.repeat(w, self.rows)
        return w.reshape((1,) * self.axis + w.shape + (1,) * (ndim - self.axis - 1))


COUPLED = Axis(-1, 0)
"""Two axes grow with the batch: samples are compared with each other."""


def _axis(shape: Sequence[int], other: Sequence[int], n: int, m: int) -> Axis | None:
    moving = [i for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
    if not moving:
        return None
    if len(moving) > 1:
        return COUPLED
    (axis,) = moving
    rows, rest = divmod(shape[axis], n)
    if rest or rows * m != other[axis]:
        return COUPLED
    return Axis(axis, rows)


def sample_axes(program: Program, other: Program, n: int, m: int) -> tuple[Axis | None, ...]:
    """The sample axis of each value of a program.

    Args:
        program: the model traced with `n` samples.
        other: the model traced with `m` samples.
        n: a batch size.
        m: another one.

    Raises:
        NetworkError: the two programs differ, or samples are not laid out batch first.
    """
    if not program.same_as(other):
        raise NetworkError(
            f"from_flax: the model runs other operations for {n} samples than for {m}, so the "
            "sample axis cannot be followed. Let the model not look at the batch size; a batch "
            "of one sample is often a case of its own, two or more are not."
        )
    axes = tuple(
        _axis(a.shape, b.shape, n, m) if hasattr(a, "shape") else None
        for a, b in zip(program.shapes, other.shapes, strict=True)
    )
    for equation in program.equations:
        if equation.name == "reshape" and isinstance(equation.inputs[0], int):
            before, after = equation.inputs[0], equation.outputs[0]
            pair = axes[before], axes[after]
            if None in pair or COUPLED in pair:
                continue
            shapes = program.shapes[before].shape, program.shapes[after].shape
            lead = [math.prod(s[: a.axis]) for s, a in zip(shapes, pair, strict=True) if a]
            if lead[0] != lead[1]:
                raise NetworkError(
                    f"from_flax: a reshape from {shapes[0]} to {shapes[1]} puts another axis "
                    "before the samples. Keep the samples first when axes are merged: [B, T, d] "
                    "to [B * T, d]."
                )
    return axes


def mixed_values(program: Program, axes: Sequence[Axis | None]) -> set[Value]:
    """The activations from which other samples' activations are made, as by a mean over the batch.

    What leaves the model without reaching a sample again (running statistics) does not count.

    Args:
        program: the program.
        axes: the sample axis of each of its values.
    """
    origins: dict[Value, frozenset[Value]] = {}
    mixed: set[Value] = set()
    for equation in program.equations:
        read = frozenset(v for v in equation.read if _is_activation(axes[v]))
        pooled = frozenset().union(*(origins.get(v, ()) for v in equation.read))
        for value in equation.outputs:
            if _is_activation(axes[value]):
                mixed |= pooled
            else:
                origins[value] = read | pooled
    return mixed


def _is_activation(axis: Axis | None) -> bool:
    return axis is not None and axis != COUPLED
