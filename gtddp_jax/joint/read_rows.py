"""Rows of J from one adjoint pass over the batch for each output of a sample.

The outputs are traced and read (`gtddp_jax.tracing.parameter_reads`). Where a parameter meets data
in a matrix product, its rows are outer products of the data and of the adjoints that the pass
gives; where it is read in another way, they are the derivative of that read for one sample.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.explicit_sharding import explicit_mesh
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Tree
from gtddp_jax.joint.leaf_products import (
    LeafProduct,
    ReadData,
    leaf_products,
    sample_axis,
    saves_work,
)
from gtddp_jax.joint.outer_rows import OuterRows, Rows
from gtddp_jax.tracing.adjoint_pass import AdjointPass
from gtddp_jax.tracing.cuts import Cut
from gtddp_jax.tracing.leaf_blocks import LINEAR_READS
from gtddp_jax.tracing.parameter_reads import ReadFunction, read_function
from gtddp_jax.tracing.parameter_uses import ParameterUse
from gtddp_jax.tracing.traced_program import TracedEquation, ValueId, read_atom


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
    reads: Mapping[int, ReadData]

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
        products: Sequence[LeafProduct],
        shape: tuple[int, ...],
        reads: Mapping[int, ReadData],
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

    def _summed_rows(self, leaf: int, reads: Mapping[int, ReadData]) -> Float[Array, "r _"]:
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
        self, read: ParameterUse, leaf: int, read_data: ReadData
    ) -> Float[Array, "N R ..."]:
        """The derivative of one read by a leaf, for the adjoints of each sample."""
        read_fn = self.read_outputs.read_fn
        equation = read_fn.program.equations[read.equation_index]
        output_axis = sample_axis(read_fn, equation.outputs[0])
        changed = _one_sample_params(equation, output_axis)

        def output(param: jax.Array, sample: Mapping[int, jax.Array]) -> jax.Array:
            """The output of the read for one sample, without the axis of the samples."""
            leaves = [*self.params]
            leaves[leaf] = param
            values = read_fn.with_parameters(self.values, leaves)
            inputs = [
                jnp.expand_dims(sample[position], sample_axis(read_fn, atom))
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
    products: tuple[tuple[LeafProduct, ...] | None, ...]
    axis_name: AxisName

    @property
    def saves_work(self) -> bool:
        """Whether products of rows take much less work for some parameter."""
        shapes = [self.read_fn.program.atom_shape(v) for v in self.read_fn.program.groups["params"]]
        return any(
            products is not None and saves_work(products, shape)
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
            axis = sample_axis(self.read_fn, equation.outputs[0])
            data = {
                position: jnp.moveaxis(
                    read_atom(adjoint_pass.data, equation.inputs[position]),
                    sample_axis(self.read_fn, equation.inputs[position]),
                    0,
                )
                for position in _data_inputs(self.read_fn, read)
            }
            reads[read.equation_index] = ReadData(data, jnp.moveaxis(adjoint, axis + 1, 0))
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
    return ReadOutputs(read_fn, tuple(leaf_products(read_fn, leaf) for leaf in leaves), axis_name)


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


def _one_sample_params(equation: TracedEquation, axis: int) -> dict[str, Any]:
    """Parameters of an operation that are different for one sample."""
    if equation.name != "broadcast_in_dim":
        return {}
    return {"shape": Cut(axis, 0, 1).shape(equation.params["shape"]), "sharding": None}
