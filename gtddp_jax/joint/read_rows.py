"""Rows of J from one adjoint pass over the batch for each output of a sample.

The outputs are traced and read (`gtddp_jax.tracing.parameter_reads`). Where a parameter meets data
in a matrix product, its rows are outer products of the data and of the adjoints that the pass
gives; where it is read in another way, they are the derivative of that read for one sample.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.explicit_sharding import explicit_mesh
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Tree
from gtddp_jax.joint.outer_rows import OuterRows, Rows
from gtddp_jax.tracing.adjoint_pass import AdjointPass
from gtddp_jax.tracing.leaf_blocks import LINEAR_READS
from gtddp_jax.tracing.param_views import find_view_equations
from gtddp_jax.tracing.parameter_reads import ReadFunction, read_function
from gtddp_jax.tracing.parameter_uses import ParameterUse
from gtddp_jax.tracing.traced_program import (
    Atom,
    TracedEquation,
    ValueId,
    evaluate_equation,
    read_atom,
)

GAIN = 2
"""How many times fewer multiplications outer products must take to be worth an adjoint pass."""


class _Product(NamedTuple):
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

    def vectors(self, read: "_ReadData") -> tuple[jax.Array, jax.Array]:
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


class _ReadData(NamedTuple):
    """What a read was evaluated at, and the derivative by its output; all with samples first.

    Attributes:
        data: the inputs that have samples [N, ...], by position.
        adjoint: [N, R, ...].
    """

    data: Mapping[int, jax.Array]
    adjoint: Float[Array, "N R ..."]


@dataclasses.dataclass(frozen=True)
class AdjointRows:
    """The rows of all samples, not laid out.

    Attributes:
        read_outputs: the outputs.
        values: what reads are evaluated from besides parameters.
        params: the leaves of the parameters.
        reads: data and adjoints, by the position of the read's equation.
    """

    read_outputs: "ReadOutputs"
    values: Mapping[ValueId, Any]
    params: Sequence[jax.Array]
    reads: Mapping[int, _ReadData]

    def rows(self, places: jax.Array | None, dtype: Any) -> Rows:
        """The rows of samples at `places` [c], R by R; of all samples for None."""
        reads = self.reads if places is None else jax.tree.map(lambda x: x[places], self.reads)
        return [
            self._outer_rows(products, param.shape, reads, dtype)
            if products
            else self._summed_rows(leaf, reads).astype(dtype)
            for leaf, (param, products) in enumerate(
                zip(self.params, self.read_outputs.products, strict=True)
            )
        ]

    def _outer_rows(
        self,
        products: Sequence[_Product],
        shape: tuple[int, ...],
        reads: Mapping[int, _ReadData],
        dtype: Any,
    ) -> OuterRows:
        left_axes = products[0].contracted_leaf
        left, right = [], []
        for product in products:
            pair = product.vectors(reads[product.equation_index])
            is_turned = product.contracted_leaf != left_axes
            left.append(pair[is_turned].astype(dtype))
            right.append(pair[not is_turned].astype(dtype))
        return OuterRows(jnp.concatenate(left, 1), jnp.concatenate(right, 1), left_axes, shape)

    def _summed_rows(self, leaf: int, reads: Mapping[int, _ReadData]) -> Float[Array, "r _"]:
        """The rows of a leaf, the sum over its reads."""
        size = self.params[leaf].size
        parts = [
            self._read_rows(read, leaf, reads[read.equation_index])
            for read in self.read_outputs.read_fn.reads
            if leaf in read.leaves
        ]
        if not parts:
            samples, width = next(iter(reads.values())).adjoint.shape[:2]
            return jnp.zeros((samples * width, size), self.params[leaf].dtype)
        return sum(parts[1:], parts[0]).reshape(-1, size)

    def _read_rows(
        self, read: ParameterUse, leaf: int, read_data: _ReadData
    ) -> Float[Array, "N R ..."]:
        """The derivative of one read by a leaf, for the adjoints of each sample."""
        read_fn = self.read_outputs.read_fn
        program, equation = read_fn.program, read_fn.program.equations[read.equation_index]
        output_axis = _required_axis(read_fn, equation.outputs[0])
        changed = _one_sample_params(equation, output_axis)

        def output(param: jax.Array, sample: Mapping[int, jax.Array]) -> jax.Array:
            """The output of the read for one sample, without the axis of the samples."""
            leaves = [*self.params]
            leaves[leaf] = param
            values = {**self.values, **dict(zip(program.groups["params"], leaves, strict=True))}
            for index in read_fn.parameter_equations:
                evaluate_equation(program.equations[index], values)
            inputs = [
                jnp.expand_dims(sample[position], _required_axis(read_fn, atom))
                if position in sample
                else read_atom(values, atom)
                for position, atom in enumerate(equation.inputs)
            ]
            return equation.bind_with(changed, *inputs)[0].squeeze(output_axis)

        def sample_rows(sample: Mapping[int, jax.Array], adjoint: jax.Array) -> jax.Array:
            _, pull_back = jax.vjp(lambda param: output(param, sample), self.params[leaf])
            return jax.vmap(lambda unit: pull_back(unit)[0])(adjoint)

        return jax.vmap(sample_rows)(*read_data)


@dataclasses.dataclass(frozen=True)
class ReadOutputs:
    """The outputs of a batch, read.

    Attributes:
        read_fn: the function `params -> (outputs [N, R], rest)`.
        products: of each leaf, its reads, if all of them are products over the same axes or over
            all the others; else None.
        axis_name: the mapped axis over devices, or None.
    """

    read_fn: ReadFunction
    products: tuple[tuple[_Product, ...] | None, ...]
    axis_name: AxisName

    @property
    def saves_work(self) -> bool:
        """Whether products of rows take much less work for some parameter."""
        shapes = [self.read_fn.program.atom_shape(v) for v in self.read_fn.program.groups["params"]]
        return any(
            products is not None and _saves_work(products, shape)
            for products, shape in zip(self.products, shapes, strict=True)
        )

    def propagate(self, params: Tree) -> AdjointRows:
        """The adjoints of every output of a sample, by one pass for each of them."""
        samples = SampleReductions(0, self.axis_name)
        adjoint_pass = AdjointPass(self.read_fn, jax.tree.leaves(params), samples)
        (outputs,) = adjoint_pass.outputs

        def pull_back(unit: jax.Array) -> list[jax.Array]:
            gradient = jnp.broadcast_to(unit[None], outputs.shape)
            return [adjoint for (adjoint,) in adjoint_pass.pull_back([gradient])]

        units: Any = samples.local_copy(jnp.eye(outputs.shape[1], dtype=outputs.dtype))
        # Without an axis of length one, which would cost copies, for a single output.
        adjoints = (
            [adjoint[None] for adjoint in pull_back(units[0])]
            if len(units) == 1
            else jax.vmap(pull_back)(units)
        )
        reads = {}
        for read, adjoint in zip(self.read_fn.reads, adjoints, strict=True):
            equation = self.read_fn.program.equations[read.equation_index]
            axis = _required_axis(self.read_fn, equation.outputs[0])
            data = {
                position: jnp.moveaxis(
                    read_atom(adjoint_pass.data, equation.inputs[position]),
                    _required_axis(self.read_fn, equation.inputs[position]),
                    0,
                )
                for position in _data_inputs(self.read_fn, read)
            }
            reads[read.equation_index] = _ReadData(data, jnp.moveaxis(adjoint, axis + 1, 0))
        return AdjointRows(self, adjoint_pass.data, adjoint_pass.params, reads)


def read_outputs(
    outputs_fn: Callable[[Tree], Float[Array, "N R"]], params: Tree, axis_name: AxisName
) -> ReadOutputs | None:
    """Reads the outputs of a batch; None if rows do not follow from adjoints.

    Args:
        outputs_fn: the outputs.
        params: the parameters.
        axis_name: the mapped axis over devices, or None.
    """
    # Zeros to differentiate by are not spread over axes of type Explicit.
    if explicit_mesh(params) is not None:
        return None
    read_fn = read_function(lambda params: ([outputs_fn(params)], ()), params)
    if read_fn is None or not read_fn.reuses_adjoints:
        return None
    if not all(_is_supported(read_fn, read) for read in read_fn.reads):
        return None
    leaves = range(len(read_fn.program.groups["params"]))
    return ReadOutputs(read_fn, tuple(_leaf_products(read_fn, leaf) for leaf in leaves), axis_name)


def _required_axis(read_fn: ReadFunction, value: Atom) -> int:
    """The axis of a value that runs over the samples."""
    assert isinstance(value, int), "literals have no samples"
    axis = read_fn.samples.axis_of(value)
    assert axis is not None, "reads without an axis of the samples are not supported"
    return axis


def _data_inputs(read_fn: ReadFunction, read: ParameterUse) -> list[int]:
    """The positions of the inputs that have samples."""
    inputs = read_fn.program.equations[read.equation_index].inputs
    return [
        position
        for position, atom in enumerate(inputs)
        if position not in read.operands
        and isinstance(atom, int)
        and read_fn.samples.has_samples(atom)
    ]


def _is_supported(read_fn: ReadFunction, read: ParameterUse) -> bool:
    """Whether a read can be evaluated for one sample."""
    program, samples = read_fn.program, read_fn.samples
    equation = program.equations[read.equation_index]
    if equation.name not in LINEAR_READS or equation.params.get("batch_group_count", 1) != 1:
        return False
    values = [*equation.outputs, *equation.value_inputs]
    if any(jnp.issubdtype(program.shapes[value].dtype, jnp.complexfloating) for value in values):
        return False
    inputs: Any = [equation.inputs[position] for position in _data_inputs(read_fn, read)]
    if any(samples.axis_of(value) is None for value in (*inputs, *equation.outputs)):
        return False
    # A table is looked up by the samples.
    return equation.name != "gather" or 0 in read.operands


def _one_sample_params(equation: TracedEquation, sample_axis: int) -> dict[str, Any]:
    """Parameters of an operation that are different for one sample."""
    if equation.name != "broadcast_in_dim":
        return {}
    shape = list(equation.params["shape"])
    shape[sample_axis] = 1
    return {"shape": tuple(shape), "sharding": None}


def _leaf_products(read_fn: ReadFunction, leaf: int) -> tuple[_Product, ...] | None:
    """The reads of a leaf as products over the same axes, or over all others; None if not so."""
    reads = [read for read in read_fn.reads if leaf in read.leaves]
    products = [_find_product(read_fn, read) for read in reads]
    found = [product for product in products if product is not None]
    if not found or len(found) < len(products):
        return None
    axes = {found[0].contracted_leaf, found[0].free_leaf}
    return tuple(found) if all(product.contracted_leaf in axes for product in found) else None


def _find_product(read_fn: ReadFunction, read: ParameterUse) -> _Product | None:
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
    sample_axis = _required_axis(read_fn, equation.outputs[0])
    output = program.shapes[equation.outputs[0]].shape
    free = len(leaf_axes) - len(equation.params["dimension_numbers"][0][read.operands[0]])
    first = 0 if read.operands[0] == 0 else len(output) - free
    # The free axes of the leaf are among the output's; none of them runs over the samples.
    own = range(first, first + free)
    if sample_axis in own:
        return None
    positions = [size for axis, size in enumerate(output) if axis not in (*own, sample_axis)]
    return _Product(
        equation,
        read.equation_index,
        read.operands[0],
        leaf_axes,
        _required_axis(read_fn, data),
        math.prod(positions),
    )


def _saves_work(products: Sequence[_Product], shape: tuple[int, ...]) -> bool:
    terms = sum(product.terms for product in products)
    left = math.prod(shape[axis] for axis in products[0].contracted_leaf)
    size = math.prod(shape)
    return GAIN * terms**2 * (left + size // left + 1) < size
