"""Blocks of a parameter: the part of a leaf that belongs to some of a layer's units.

A leaf is cut along one of its axes. An operation that reads the leaf is linear in it, and the
arrays beside it are cut along the axes that run over the same units:

| operation   | cut along           | beside it                     |
|-------------|---------------------|-------------------------------|
| product     | the contracted axis | the data                      |
| convolution | its output channels | the adjoints                  |
| bias, scale | the features        | the adjoints, and data if any |
| lookup      | the features        | the adjoints                  |
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.tracing.axis_labels import Axes, AxisLabels
from gtddp_jax.tracing.axis_rules import output_axes
from gtddp_jax.tracing.param_views import RESHAPING, find_view_equations
from gtddp_jax.tracing.parameter_reads import ReadFunction
from gtddp_jax.tracing.parameter_uses import ParameterUse
from gtddp_jax.tracing.traced_program import TracedEquation, ValueId

LINEAR_READS = frozenset(
    {"dot_general", "conv_general_dilated", "add", "add_any", "sub", "mul", "div", "gather"}
    | {"broadcast_in_dim"}
)
"""Operations that are linear in an operand, up to a constant, and can be cut."""

SMALL_READ = 2**14
"""A leaf whose reads take fewer multiplications than this is taken as a whole."""

SMALLEST_BLOCK = 4
"""The fewest units in a block: with fewer, products and convolutions are not faster."""


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
class LeafRead:
    """One read of one leaf, along an axis of the leaf.

    Attributes:
        read: the read.
        view: the equations from the leaf to the operand.
        view_axes: for each of them, the axis of its result that runs over the same units.
        input_axes: the same for each input of the read.
        output_axis: the same for its output.
        work: the number of multiplications.
    """

    read: ParameterUse
    view: tuple[TracedEquation, ...]
    view_axes: tuple[int | None, ...]
    input_axes: tuple[int | None, ...]
    output_axis: int | None
    work: float

    @property
    def operand(self) -> int:
        """Which input of the equation the leaf is."""
        return self.read.operands[0]

    def cut_inputs(self, inputs: Mapping[int, jax.Array], cut: Cut) -> dict[int, jax.Array]:
        """The parts of the inputs beside the leaf, by position, that belong to a block."""
        return {
            position: Cut(self.input_axes[position], cut.start, cut.size).part(x)
            for position, x in inputs.items()
        }


class LeafPlan(NamedTuple):
    """How a leaf takes part.

    Attributes:
        leaf: its position among the leaves.
        axis: the axis along which it is cut; None if it is taken as a whole.
        block: the number of units in a block.
        units: the number of all units.
        reads: its reads.
    """

    leaf: int
    axis: int | None
    block: int
    units: int
    reads: tuple[LeafRead, ...]

    @property
    def block_count(self) -> int:
        """The number of blocks, of which the last may overlap the one before."""
        return math.ceil(self.units / self.block) if self.axis is not None else 1

    @property
    def work(self) -> float:
        """The number of multiplications of all reads."""
        return sum(read.work for read in self.reads)

    def cut(self, number: jax.Array) -> Cut:
        """The cut of block `number`."""
        if self.axis is None:
            return Cut(None)
        return Cut(self.axis, jnp.minimum(number * self.block, self.units - self.block), self.block)

    def inverse_shares(self) -> list[float]:
        """For each unit, one over the share of blocks that it is in."""
        covers = [0] * self.units
        for number in range(self.block_count):
            first = min(number * self.block, self.units - self.block)
            for unit in range(first, first + self.block):
                covers[unit] += 1
        return [self.block_count / cover for cover in covers]


def plan_leaves(read_fn: ReadFunction, share: float) -> list[LeafPlan]:
    """How each leaf takes part; leaves with a read that is not understood do not.

    Args:
        read_fn: the function.
        share: the share of units in a block.
    """
    reads_of: dict[int, list[ParameterUse]] = {}
    for read in read_fn.reads:
        for leaf in read.leaves:
            reads_of.setdefault(leaf, []).append(read)
    producers = read_fn.producers
    plans = []
    for leaf, reads in sorted(reads_of.items()):
        views = [_view(read_fn, producers, read) for read in reads]
        if all(view is not None for view in views):
            plans.append(_plan_leaf(read_fn, leaf, reads, [view or () for view in views], share))
    return plans


def _value(equation: TracedEquation, position: int) -> ValueId:
    value = equation.inputs[position]
    assert isinstance(value, int), "an operand is a value"
    return value


def _view(
    read_fn: ReadFunction, producers: Mapping[ValueId, int], read: ParameterUse
) -> tuple[TracedEquation, ...] | None:
    """The changes of layout from its leaf to the operand; None unless the read can be cut."""
    program = read_fn.program
    equation = program.equations[read.equation_index]
    is_unary = len(read.operands) == 1 and len(read.outputs) == 1 == len(equation.outputs)
    if not is_unary or equation.name not in LINEAR_READS:
        return None
    if equation.name == "div" and read.operands != (0,):
        return None
    if equation.name in ("gather", "broadcast_in_dim") and read.operands != (0,):
        return None
    dtypes = [program.shapes[value].dtype for value in (*equation.value_inputs, *equation.outputs)]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return None
    if not read_fn.samples.is_per_sample(equation.outputs[0]):
        return None
    found = find_view_equations(program, producers, _value(equation, read.operands[0]))
    return None if found is None else found[1]


def _plan_leaf(
    read_fn: ReadFunction,
    leaf: int,
    reads: Sequence[ParameterUse],
    views: Sequence[tuple[TracedEquation, ...]],
    share: float,
) -> LeafPlan:
    shape = read_fn.program.shapes[read_fn.program.groups["params"][leaf]].shape
    whole = LeafPlan(
        leaf,
        None,
        0,
        0,
        tuple(_whole_read(read_fn, read, view) for read, view in zip(reads, views, strict=True)),
    )
    if share >= 1 or whole.work < SMALL_READ:
        return whole
    best, best_score = whole, 0
    for axis, units in enumerate(shape):
        block = max(math.ceil(share * units), SMALLEST_BLOCK)
        if block >= units:
            continue
        cut = [
            _cut_read(read_fn, read, view, shape, axis)
            for read, view in zip(reads, views, strict=True)
        ]
        if any(one is None for one in cut):
            continue
        leaf_reads = tuple(one for one in cut if one is not None)
        score = sum(_preference(read_fn, one) for one in leaf_reads)
        if score > best_score:
            best, best_score = LeafPlan(leaf, axis, block, units, leaf_reads), score
    return best


def _preference(read_fn: ReadFunction, leaf_read: LeafRead) -> int:
    """Products are best cut along the contracted axis, anything else along that of the output."""
    is_product = read_fn.program.equations[leaf_read.read.equation_index].name == "dot_general"
    return 2 if is_product == (leaf_read.output_axis is None) else 1


def _work(read_fn: ReadFunction, read: ParameterUse) -> float:
    """The number of multiplications of a read."""
    equation = read_fn.program.equations[read.equation_index]
    shapes = read_fn.program.shapes
    output = math.prod(shapes[equation.outputs[0]].shape)
    operand = shapes[_value(equation, read.operands[0])].shape
    if equation.name == "dot_general":
        contracted, _ = equation.params["dimension_numbers"]
        return float(output * math.prod(operand[axis] for axis in contracted[read.operands[0]]))
    if equation.name == "conv_general_dilated":
        features = equation.params["dimension_numbers"].rhs_spec[0]
        return output * math.prod(operand) / operand[features]
    return float(output)


def _whole_read(
    read_fn: ReadFunction, read: ParameterUse, view: tuple[TracedEquation, ...]
) -> LeafRead:
    inputs = len(read_fn.program.equations[read.equation_index].inputs)
    return LeafRead(read, view, (None,) * len(view), (None,) * inputs, None, _work(read_fn, read))


def _cut_read(
    read_fn: ReadFunction,
    read: ParameterUse,
    view: tuple[TracedEquation, ...],
    shape: tuple[int, ...],
    axis: int,
) -> LeafRead | None:
    """A read, cut along an axis of the leaf; None if the other arrays cannot be cut with it."""
    # Labels of their own: elsewhere in the model, other axes may run over the same units.
    labels = AxisLabels()
    leaf_axes = labels.new_axes(shape)
    steps = [leaf_axes]
    for step in view:
        (axes,) = output_axes(labels, step.source, [steps[-1]], [])
        steps.append(axes)
    equation = read_fn.program.equations[read.equation_index]
    inputs = [
        steps[-1]
        if i == read.operands[0]
        else labels.new_axes(jnp.shape(atom.val))
        if not isinstance(atom, int)
        else labels.new_axes(read_fn.program.shapes[atom].shape)
        for i, atom in enumerate(equation.inputs)
    ]
    (output,) = output_axes(labels, equation.source, inputs, [])
    unit = labels.resolve(leaf_axes[axis])
    if len(unit) != 1:
        return None
    positions = [_axis_of(labels, axes, unit[0]) for axes in [*steps, *inputs, output]]
    if any(position == MERGED for position in positions):
        return None
    found = [None if position == ABSENT else position for position in positions]
    view_axes, input_axes = found[1 : len(steps)], found[len(steps) : -1]
    beside = [a for i, a in enumerate(input_axes) if i != read.operands[0]]
    # Units that neither data nor output share, such as the offsets of a convolution.
    if found[-1] is None and all(a is None for a in beside):
        return None
    # Parameters of single samples.
    if found[-1] is not None and read_fn.samples.runs_over_samples(equation.outputs[0], found[-1]):
        return None
    return LeafRead(
        read, view, tuple(view_axes), tuple(input_axes), found[-1], _work(read_fn, read)
    )


ABSENT, MERGED = -1, -2


def _axis_of(labels: AxisLabels, axes: Axes, unit: int) -> int:
    """The axis that runs over the units alone."""
    resolved = [labels.resolve(axis) for axis in axes]
    found = [position for position, axis in enumerate(resolved) if unit in axis]
    if not found:
        return ABSENT
    return found[0] if len(found) == 1 and resolved[found[0]] == (unit,) else MERGED


def evaluate_read(
    equation: TracedEquation,
    leaf_read: LeafRead,
    block: jax.Array,
    inputs: Mapping[int, jax.Array],
    cut: Cut,
) -> jax.Array:
    """The output of a read for the block of the leaf.

    Args:
        equation: the equation of the read.
        leaf_read: the read.
        block: the part of the leaf.
        inputs: the other inputs by position, cut.
        cut: the cut of the leaf.
    """
    for step, axis in zip(leaf_read.view, leaf_read.view_axes, strict=True):
        block = _change_layout(step, block, Cut(axis, cut.start, cut.size))
    by_position = {**inputs, leaf_read.operand: block}
    arguments = [by_position[position] for position in range(len(equation.inputs))]
    return _bind_part(equation, leaf_read, arguments, cut)


def _change_layout(step: TracedEquation, x: jax.Array, cut: Cut) -> jax.Array:
    if step.name == "transpose":
        return x.transpose(step.params["permutation"])
    if step.name == "convert_element_type":
        return x.astype(step.params["new_dtype"])
    if step.name in RESHAPING:
        result: Any = step.source.outvars[0].aval
        return x.reshape(cut.shape(result.shape))
    return step(x)[0]


def _bind_part(
    equation: TracedEquation, leaf_read: LeafRead, arguments: list[Any], cut: Cut
) -> jax.Array:
    """Evaluates an equation on arrays that have been cut."""
    changed: dict[str, Any] = {}
    if equation.name == "gather":
        sizes = list(equation.params["slice_sizes"])
        if leaf_read.input_axes[0] is not None:
            sizes[leaf_read.input_axes[0]] = cut.size
        changed["slice_sizes"] = tuple(sizes)
    if equation.name == "broadcast_in_dim":
        changed["shape"] = Cut(leaf_read.output_axis, 0, cut.size).shape(equation.params["shape"])
        changed["sharding"] = None
    return equation.bind_with(changed, *arguments)[0]
