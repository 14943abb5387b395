"""Parameters that data meet in matrix products: their rows are outer products.

| value     | of a product of a leaf and data                          | shape        |
|-----------|----------------------------------------------------------|--------------|
| data      | laid out by the axes of the leaf that are summed over    | [N R, S, A]  |
| adjoints  | laid out by its other axes                               | [N R, S, B]  |
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.joint.outer_rows import entry_cost
from gtddp_jax.tracing.param_views import find_view_equations
from gtddp_jax.tracing.parameter_reads import ReadFunction
from gtddp_jax.tracing.parameter_uses import ParameterUse
from gtddp_jax.tracing.traced_program import Atom, TracedEquation

GAIN = 2
"""How many times fewer multiplications outer products must take to be worth an adjoint pass."""


class ReadData(NamedTuple):
    """What a read was evaluated at, and the derivative by its output; all with samples first.

    Attributes:
        data: the inputs that have samples [N, ...], by position.
        adjoint: [N, R, ...].
    """

    data: Mapping[int, jax.Array]
    adjoint: Float[Array, "N R ..."]


class LeafProduct(NamedTuple):
    """A matrix product of one leaf, in some layout, and data.

    Attributes:
        equation: the product.
        equation_index: its position in the program.
        operand: which of its inputs is the leaf.
        leaf_axes: for each axis of the operand, the axis of the leaf.
        data_axis: the axis of the data that runs over the samples.
        terms: S, the number of positions of a sample.
    """

    equation: TracedEquation
    equation_index: int
    operand: int
    leaf_axes: tuple[int, ...]
    data_axis: int
    terms: int

    @property
    def contracted(self) -> tuple[int, ...]:
        """The contracted axes of the operand, in the order of the data's."""
        return self.equation.params["dimension_numbers"][0][self.operand]

    @property
    def contracted_data(self) -> tuple[int, ...]:
        """The contracted axes of the data."""
        return self.equation.params["dimension_numbers"][0][1 - self.operand]

    @property
    def contracted_leaf(self) -> tuple[int, ...]:
        """The contracted axes of the leaf, in ascending order."""
        return tuple(sorted(self.leaf_axes[axis] for axis in self.contracted))

    @property
    def free_leaf(self) -> tuple[int, ...]:
        """The other axes of the leaf, in ascending order."""
        return tuple(sorted(set(self.leaf_axes) - set(self.contracted_leaf)))

    def vectors(self, read: ReadData) -> tuple[jax.Array, jax.Array]:
        """The two sides of the outer products.

        Args:
            read: data and adjoints of the read.

        Returns:
            Data [N R, S, A], A over the contracted axes of the leaf, and adjoints [N R, S, B], B
            over its other axes.
        """
        (data,), adjoint = read.data.values(), read.adjoint
        samples, width = adjoint.shape[:2]
        # Without the samples, the free axes of the first input come first in the output.
        free = [axis for axis in range(len(self.leaf_axes)) if axis not in self.contracted]
        first = 2 if self.operand == 0 else adjoint.ndim - len(free)
        own = sorted(zip(free, range(first, first + len(free)), strict=True), key=self._leaf_axis)
        adjoint = jnp.moveaxis(adjoint, [axis for _, axis in own], range(-len(own), 0))
        # The axis of the samples is the first one now.
        moved = [axis + (axis < self.data_axis) for axis in self.contracted_data]
        paired = sorted(zip(self.contracted, moved, strict=True), key=self._leaf_axis)
        data = jnp.moveaxis(data, [axis for _, axis in paired], range(-len(paired), 0))
        data = jnp.repeat(data.reshape(samples, self.terms, -1), width, axis=0)
        return data, adjoint.reshape(samples * width, self.terms, -1)

    def _leaf_axis(self, pair: tuple[int, int]) -> int:
        return self.leaf_axes[pair[0]]


def sample_axis(read_fn: ReadFunction, value: Atom) -> int:
    """The axis of a value that runs over the samples."""
    assert isinstance(value, int), "literals have no samples"
    axis = read_fn.samples.axis_of(value)
    assert axis is not None, "reads without an axis of the samples are not supported"
    return axis


def leaf_products(read_fn: ReadFunction, leaf: int) -> tuple[LeafProduct, ...] | None:
    """The reads of a leaf as products over the same axes, or over all others; None if not so."""
    reads = [read for read in read_fn.reads if leaf in read.leaves]
    products = [_find_product(read_fn, read) for read in reads]
    found = [product for product in products if product is not None]
    if not found or len(found) < len(products):
        return None
    axes = {found[0].contracted_leaf, found[0].free_leaf}
    return tuple(found) if all(product.contracted_leaf in axes for product in found) else None


def _find_product(read_fn: ReadFunction, read: ParameterUse) -> LeafProduct | None:
    """A read as a product of a transposed leaf and data; None if it is anything else."""
    program = read_fn.program
    equation = program.equations[read.equation_index]
    data = read_fn.product_data(read)
    if equation.name != "dot_general" or data is None or len(read.leaves) != 1:
        return None
    _, batch_axes = equation.params["dimension_numbers"]
    operand = equation.inputs[read.operands[0]]
    if batch_axes != ((), ()) or not isinstance(operand, int):
        return None
    view = find_view_equations(program, read_fn.producers, operand)
    if view is None:
        return None
    leaf_axes = tuple(range(len(program.shapes[view[0]].shape)))
    for step in view[1]:
        if step.name == "transpose":
            leaf_axes = tuple(leaf_axes[axis] for axis in step.params["permutation"])
        elif program.shapes[step.value_inputs[0]].shape != program.shapes[step.outputs[0]].shape:
            return None
    output_axis = sample_axis(read_fn, equation.outputs[0])
    output = program.shapes[equation.outputs[0]].shape
    free = len(leaf_axes) - len(equation.params["dimension_numbers"][0][read.operands[0]])
    first = 0 if read.operands[0] == 0 else len(output) - free
    # The free axes of the leaf are among the output's; none of them runs over the samples.
    own = range(first, first + free)
    if output_axis in own:
        return None
    positions = [size for axis, size in enumerate(output) if axis not in (*own, output_axis)]
    return LeafProduct(
        equation,
        read.equation_index,
        read.operands[0],
        leaf_axes,
        sample_axis(read_fn, data),
        math.prod(positions),
    )


def saves_work(products: Sequence[LeafProduct], shape: tuple[int, ...]) -> bool:
    """Whether products of rows take much less work by the vectors of a leaf of this shape."""
    terms = sum(product.terms for product in products)
    left = math.prod(shape[axis] for axis in products[0].contracted_leaf)
    size = math.prod(shape)
    return GAIN * entry_cost(terms**2, left, size // left) < size
