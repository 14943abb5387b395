"""Bands of positions: the part of a read's output over which an influence is summed.

A convolution with few channels is no faster for fewer of them. Its positions can be cut instead,
because the influence of a parameter on a loss is a sum over the positions at which it is read:

| operation   | positions                  | beside it                                         |
|-------------|----------------------------|---------------------------------------------------|
| convolution | rows of the output image   | the rows of the input image that they are made of |
| product     | an axis of the data alone  | the data                                          |
| bias, scale | an axis of the data alone  | the data                                          |
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.tracing.axis_labels import ABSENT, MERGED, AxisLabels
from gtddp_jax.tracing.axis_rules import output_axes
from gtddp_jax.tracing.cuts import Cut, Partition, slice_from
from gtddp_jax.tracing.parameter_reads import ReadFunction
from gtddp_jax.tracing.traced_program import TracedEquation, TracedProgram

LABELLED_READS = frozenset({"dot_general", "add", "add_any", "sub", "mul", "div"})
"""Reads of which every output axis that is also one of the data is known as such."""


class Window(NamedTuple):
    """What a convolution reads along one axis of its input.

    Attributes:
        stride: from one position of the output to the next.
        extent: entries between the first and the last one that a position reads, both included.
        padding: zeros before and after the input.
        spatial: the number of the axis among the spatial ones.
    """

    stride: int
    extent: int
    padding: tuple[int, int]
    spatial: int

    def input_size(self, size: int) -> int:
        """How many entries of the input `size` positions are made of, padding included."""
        return (size - 1) * self.stride + self.extent

    def part(self, x: jax.Array, axis: int, start: Any, size: int) -> jax.Array:
        """The part of the input that `size` positions from `start` on are made of."""
        low, high = self.padding
        wanted, entries = start * self.stride - low, self.input_size(size)
        inside = jnp.clip(wanted, 0, x.shape[axis] - entries)
        part = slice_from(x, inside, entries, axis)
        # Only the short part is padded; a band at an edge then begins in the padding.
        padded = jnp.pad(part, [(low, high) if i == axis else (0, 0) for i in range(x.ndim)])
        return slice_from(padded, low + wanted - inside, entries, axis)


@dataclasses.dataclass(frozen=True)
class PositionBands:
    """Bands of equally many positions of a read's output; the last may overlap the one before.

    Attributes:
        output_axis: the axis of the output that is cut.
        input_axes: the same axis of each input; None where an input has none.
        partition: the positions and the number of them in a band.
        window: of a convolution along the axis; None for other reads.
    """

    output_axis: int
    input_axes: tuple[int | None, ...]
    partition: Partition
    window: Window | None = None

    def cut(self, start: jax.Array) -> Cut:
        """The cut of the output for the band from the position `start` on."""
        return Cut(self.output_axis, start, self.partition.size)

    def scale(self, x: jax.Array, cut: Cut) -> jax.Array:
        """The cut of an output, each position over the share of bands that it is in."""
        return self.partition.scale(x, cut, self.output_axis)

    def cut_inputs(self, inputs: Mapping[int, jax.Array], start: Any) -> dict[int, jax.Array]:
        """The parts of the inputs beside the parameter from which a band of the output is made."""
        return {
            position: self._input_part(x, self.input_axes[position], start)
            for position, x in inputs.items()
        }

    def _input_part(self, x: jax.Array, axis: int | None, start: Any) -> jax.Array:
        if axis is None or self.window is None:
            return Cut(axis, start, self.partition.size).part(x)
        return self.window.part(x, axis, start, self.partition.size)

    def changed_params(self, equation: TracedEquation) -> dict[str, Any]:
        """Parameters of the operation that are different for a band."""
        if self.window is None:
            return {}
        padding = list(equation.params["padding"])
        padding[self.window.spatial] = (0, 0)
        return {"padding": tuple(padding)}


def find_bands(
    read_fn: ReadFunction,
    equation: TracedEquation,
    operand: int,
    output_axis: int | None,
    share: float,
) -> PositionBands | None:
    """Bands along the first axis of positions that is long enough; None if there is none.

    Args:
        read_fn: the function.
        equation: the read.
        operand: which of its inputs is the parameter.
        output_axis: the axis of its output that is cut already, or None.
        share: the share of positions in a band.
    """
    if share >= 1:
        return None
    if equation.name == "conv_general_dilated":
        candidates = _convolution_bands(read_fn.program, equation, operand, share)
    elif equation.name in LABELLED_READS:
        candidates = _labelled_bands(read_fn.program, equation, operand, share)
    else:
        return None
    for bands in candidates:
        is_free = bands.output_axis != output_axis and not read_fn.samples.runs_over_samples(
            equation.outputs[0], bands.output_axis
        )
        if is_free and bands.partition.count > 1:
            return bands
    return None


def _convolution_bands(
    program: TracedProgram, equation: TracedEquation, operand: int, share: float
) -> list[PositionBands]:
    params = equation.params
    numbers = params["dimension_numbers"]
    if operand != 1 or params["batch_group_count"] != 1:
        return []
    data_shape, kernel_shape = (program.atom_shape(atom) for atom in equation.inputs)
    found = []
    for spatial, (input_axis, output_axis, kernel_axis) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)
    ):
        padding = tuple(params["padding"][spatial])
        if params["lhs_dilation"][spatial] != 1 or min(padding) < 0:
            continue
        extent = (kernel_shape[kernel_axis] - 1) * params["rhs_dilation"][spatial] + 1
        window = Window(params["window_strides"][spatial], extent, padding, spatial)
        positions = program.shapes[equation.outputs[0]].shape[output_axis]
        size = math.ceil(share * positions)
        bands = PositionBands(output_axis, (input_axis, None), Partition(positions, size), window)
        if window.input_size(size) <= data_shape[input_axis]:
            found.append(bands)
    return found


def _labelled_bands(
    program: TracedProgram, equation: TracedEquation, operand: int, share: float
) -> list[PositionBands]:
    labels = AxisLabels()
    inputs = [labels.new_axes(program.atom_shape(atom)) for atom in equation.inputs]
    (output,) = output_axes(labels, equation.source, inputs, [])
    found = []
    for axis, positions in enumerate(program.shapes[equation.outputs[0]].shape):
        label = labels.resolve(output[axis])
        if len(label) != 1:
            continue
        places = [labels.position_of(axes, label[0]) for axes in inputs]
        if MERGED not in places and places[operand] == ABSENT:
            input_axes = tuple(None if place == ABSENT else place for place in places)
            size = math.ceil(share * positions)
            found.append(PositionBands(axis, input_axes, Partition(positions, size)))
    return found
