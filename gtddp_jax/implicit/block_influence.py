"""The influence of blocks of the parameters on each sample's loss, from adjoints at hand."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from gtddp_jax.core.samples import to_varying, varying_axes
from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import PerSample
from gtddp_jax.core.xla import compute_once, map_unstacked
from gtddp_jax.tracing.adjoint_pass import AdjointPass
from gtddp_jax.tracing.cuts import Cut, block_starts
from gtddp_jax.tracing.leaf_blocks import LeafPlan, LeafRead, evaluate_read
from gtddp_jax.tracing.traced_program import TracedEquation, ValueId, read_atom


class LeafBlock(NamedTuple):
    """The drawn block of one leaf.

    Attributes:
        plan: how the leaf takes part.
        cut: the block.
        band: the positions of the read's output at which its influence is summed.
    """

    plan: LeafPlan
    cut: Cut
    band: Cut


def draw_blocks(plans: Sequence[LeafPlan], bits: UInt32[Array, " leaves"]) -> list[LeafBlock]:
    """One block of each leaf.

    Args:
        plans: how the leaves take part.
        bits: random bits, one number for each leaf.
    """
    blocks = [plan.blocks for plan in plans]
    bands = [plan.band_blocks for plan in plans]
    draws = bits % np.array([plan.draws for plan in plans], np.uint32)
    counts = np.array([partition.count for partition in blocks], np.uint32)
    starts = compute_once(
        jnp.stack([block_starts(blocks, draws % counts), block_starts(bands, draws // counts)])
    )
    return [
        LeafBlock(plan, plan.cut(starts[0, i]), plan.band(starts[1, i]))
        for i, plan in enumerate(plans)
    ]


class BlockInfluence:
    """Gradients by a block of one leaf, and the influence of a change of the block.

    Args:
        adjoints: the pass that holds the adjoints.
        block: the block.
    """

    def __init__(self, adjoints: AdjointPass, block: LeafBlock) -> None:
        self._pass, self._block = adjoints, block
        self._param: jax.Array = block.cut.part(adjoints.params[block.plan.leaf])
        read_fn = adjoints.read_fn
        positions = {read.equation_index: i for i, read in enumerate(read_fn.reads)}
        self._adjoints = [
            self._output_part(leaf_read).part(
                adjoints.adjoints[positions[leaf_read.read.equation_index]][0]
            )
            for leaf_read in block.plan.reads
        ]

    def _output_part(self, leaf_read: LeafRead) -> Cut:
        cut = self._block.cut
        return Cut(leaf_read.output_axis, cut.start, cut.size)

    def _others(self, leaf_read: LeafRead) -> dict[int, jax.Array]:
        """The inputs of a read beside the leaf."""
        return {
            position: read_atom(self._pass.data, atom)
            for position, atom in enumerate(self._equation(leaf_read).inputs)
            if position != leaf_read.operand
        }

    def _equation(self, leaf_read: LeafRead) -> TracedEquation:
        return self._pass.read_fn.program.equations[leaf_read.read.equation_index]

    def _output(self, leaf_read: LeafRead, param: jax.Array) -> jax.Array:
        """The output of a read, or the part of it that the block is read for."""
        others = leaf_read.cut_inputs(self._others(leaf_read), self._block.cut)
        return evaluate_read(self._equation(leaf_read), leaf_read, param, others, self._block.cut)

    def gradient(self) -> jax.Array:
        """`sum_i G_i` of the block over the samples of this device."""
        reads = self._block.plan.reads
        _, pull_back = jax.vjp(
            lambda param: [self._output(leaf_read, param) for leaf_read in reads], self._param
        )
        return pull_back(self._adjoints)[0]

    def directional_derivatives(self, changes: Sequence[jax.Array]) -> Float[Array, "n B"]:
        """The change of each loss by changes of the leaf, estimated from the block: [n, B].

        Args:
            changes: n changes of the block.
        """
        # The base is the same on all devices, the samples are not.
        axes = varying_axes(self._param)
        changes = [
            to_varying(self._scaled(change).astype(self._param.dtype), axes) for change in changes
        ]
        totals = [
            self._read_derivatives(leaf_read, adjoint, changes)
            for leaf_read, adjoint in zip(self._block.plan.reads, self._adjoints, strict=True)
        ]
        return sum(totals[1:], totals[0])

    def _read_derivatives(
        self, leaf_read: LeafRead, adjoint: jax.Array, changes: Sequence[jax.Array]
    ) -> Float[Array, "n B"]:
        """The change of each loss by changes of the block in one read, [n, B]."""
        derivative = functools.partial(self._read_derivative, leaf_read, adjoint)
        is_product = self._equation(leaf_read).name == "dot_general"
        # Otherwise the product takes longer than its changes, and is faster for all at once.
        if is_product and changes[0].size > adjoint.size:
            return map_unstacked(derivative, changes)
        return jax.vmap(derivative)(jnp.stack(changes))

    def _read_derivative(
        self, leaf_read: LeafRead, adjoint: jax.Array, change: jax.Array
    ) -> PerSample:
        """The change of each loss by a change of the block in one read, [B]."""
        equation, samples = self._equation(leaf_read), self._pass.read_fn.samples
        cut, bands = self._block.cut, self._block.plan.bands
        others = self._others(leaf_read)
        if bands is not None:
            others = bands.cut_inputs(others, self._block.band.start)
            adjoint = bands.scale(self._block.band.part(adjoint), self._block.band)
        others = leaf_read.cut_inputs(others, cut)
        data_value = self._smaller_data(leaf_read)
        if data_value is not None:
            # g . (x K) = x . (g K^T), which takes the smaller of both products.
            position = 1 - leaf_read.operand
            data = others[position]
            _, pull_back = jax.vjp(
                lambda x: evaluate_read(equation, leaf_read, change, {position: x}, cut, bands),
                data,
            )
            (product,) = pull_back(adjoint)
            return samples.sum_by_sample(data_value, upcast(product) * upcast(data))
        _, output = jax.jvp(
            lambda param: evaluate_read(equation, leaf_read, param, others, cut, bands),
            (self._param,),
            (change,),
        )
        return samples.sum_by_sample(equation.outputs[0], upcast(output) * upcast(adjoint))

    def _smaller_data(self, leaf_read: LeafRead) -> ValueId | None:
        """The data of a product, if they are smaller than its output; else None."""
        equation, program = self._equation(leaf_read), self._pass.read_fn.program
        data, (output, *_) = self._pass.read_fn.product_data(leaf_read.read), equation.outputs
        if data is None or equation.name != "dot_general":
            return None
        data_size, output_size = (
            math.prod(Cut(axis, 0, self._block.cut.size).shape(program.shapes[value].shape))
            for value, axis in (
                (data, leaf_read.input_axes[1 - leaf_read.operand]),
                (output, leaf_read.output_axis),
            )
        )
        return data if data_size < output_size else None

    def _scaled(self, change: jax.Array) -> jax.Array:
        """A change of the block over the share of blocks that each unit is in."""
        plan, cut = self._block.plan, self._block.cut
        return change if cut.axis is None else plan.blocks.scale(change, cut, cut.axis)
