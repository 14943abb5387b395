"""Where each value keeps its samples, found by tracing a model at two batch sizes.

| value                         | shapes with n and with m samples | sample axis                |
|-------------------------------|----------------------------------|----------------------------|
| an activation                 | [n, T, d], [m, T, d]             | axis 0, one row per sample |
| positions merged, batch first | [n T, d], [m T, d]               | axis 0, T rows per sample  |
| a mask, a batch statistic     | [T, T], [T, T]                   | none                       |
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.traced_program import TracedEquation, TracedProgram


class SampleAxis(NamedTuple):
    """The axis along which an array keeps its samples.

    Attributes:
        axis: position of the axis in the array.
        rows: number of consecutive entries along it that belong to one sample.
    """

    axis: int
    rows: int

    def to_front(self, x: jax.Array) -> jax.Array:
        """`x` as [B, ...], or [B, rows, ...] if a sample has several rows."""
        x = x if self.axis == 0 else jnp.moveaxis(x, self.axis, 0)
        return x if self.rows == 1 else x.reshape(-1, self.rows, *x.shape[1:])

    def from_front(self, x: jax.Array) -> jax.Array:
        """The inverse of `to_front`."""
        x = x if self.rows == 1 else x.reshape(-1, *x.shape[2:])
        return x if self.axis == 0 else jnp.moveaxis(x, 0, self.axis)

    def broadcast_weights(self, weights: jax.Array, ndim: int) -> jax.Array:
        """Weights [B] shaped for multiplication with an array of `ndim` axes."""
        weights = weights if self.rows == 1 else jnp.repeat(weights, self.rows)
        return weights.reshape((1,) * self.axis + weights.shape + (1,) * (ndim - self.axis - 1))


COUPLED = SampleAxis(-1, 0)
"""Marks a value of which two axes grow with the batch: samples are compared with each other."""


def is_activation(sample_axis: SampleAxis | None) -> bool:
    """Whether a value with this sample axis has one entry per sample."""
    return sample_axis is not None and sample_axis != COUPLED


def find_sample_axis(
    shape: Sequence[int], other_shape: Sequence[int], size: int, other_size: int
) -> SampleAxis | None:
    """The axis that grows with the batch, from a value's shapes at two batch sizes."""
    growing = [
        axis
        for axis, (length, other_length) in enumerate(zip(shape, other_shape, strict=True))
        if length != other_length
    ]
    if not growing:
        return None
    if len(growing) > 1:
        return COUPLED
    # A merged axis, [B * T, d], holds several rows of each sample.
    (axis,) = growing
    rows, remainder = divmod(shape[axis], size)
    # The length must be proportional to the batch: pairs of samples, for example, are not.
    if remainder or rows * other_size != other_shape[axis]:
        return COUPLED
    return SampleAxis(axis, rows)


def find_sample_axes(
    program: TracedProgram, other: TracedProgram, size: int, other_size: int
) -> tuple[SampleAxis | None, ...]:
    """The sample axis of each value of a program.

    Args:
        program: the model traced with `size` samples.
        other: the model traced with `other_size` samples.
        size: a batch size.
        other_size: a different one.

    Raises:
        NetworkError: the programs differ, or axes are merged with the samples not first.
    """
    if not program.differs_in_shapes_only(other):
        raise NetworkError(
            f"from_flax: the model runs different operations for {size} samples than for "
            f"{other_size}, so the sample axis cannot be followed. The model must not depend on "
            "the batch size; if only a batch of one sample is special, use an example of two or "
            "more."
        )
    sample_axes = tuple(
        find_sample_axis(shape.shape, other_shape.shape, size, other_size)
        if hasattr(shape, "shape")
        else None
        for shape, other_shape in zip(program.shapes, other.shapes, strict=True)
    )
    for equation in program.equations:
        if equation.name == "reshape":
            _check_reshape(program, equation, sample_axes)
    return sample_axes


def _check_reshape(
    program: TracedProgram, equation: TracedEquation, sample_axes: Sequence[SampleAxis | None]
) -> None:
    """Raises if a reshape interleaves samples: then no run of rows belongs to one sample."""
    source, target = equation.inputs[0], equation.outputs[0]
    if not isinstance(source, int):
        return
    axis_before, axis_after = sample_axes[source], sample_axes[target]
    if axis_before is None or axis_after is None or COUPLED in (axis_before, axis_after):
        return
    # The samples stay together if the axes before them have the same total size.
    before, after = program.shapes[source].shape, program.shapes[target].shape
    if math.prod(before[: axis_before.axis]) != math.prod(after[: axis_after.axis]):
        raise NetworkError(
            f"from_flax: a reshape from {before} to {after} puts another axis before the samples. "
            "Keep the samples first when axes are merged: [B, T, d] to [B * T, d]."
        )
