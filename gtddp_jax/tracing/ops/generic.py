"""Any operation, by derivatives of the operation itself."""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.tracing.ops.base import Operands, SplitUse, UseGradients

SampleArrays: TypeAlias = tuple[dict[int, jax.Array], list[jax.Array]]
"""One sample's inputs by position, and its adjoints."""


class GenericUse(UseGradients):
    """Any operation: the gradient of one sample is a vjp of the operation for one sample."""

    kind = "generic"

    @override
    def split_by_sample(self) -> SplitUse:
        use = self.use
        single_sample_equation = use.single_sample_equation()
        if single_sample_equation is None:
            # Without an operation for one sample, take all samples with every weight but one zero.
            return jnp.eye(use.batch_size), self.weighted_sum
        data = {
            position: axis.to_front(use.inputs[position])
            for position, axis in enumerate(use.input_axes)
            if axis is not None
        }
        adjoints = [axis.to_front(g) for g, axis in zip(use.adjoints, use.output_axes, strict=True)]

        def gradient(sample: SampleArrays) -> Operands:
            sample_inputs, sample_adjoints = sample
            inputs = list(use.inputs)
            for position, x in sample_inputs.items():
                axis = use.input_axes[position]
                assert axis is not None
                inputs[position] = axis.from_front(x[None])
            cotangents = tuple(
                axis.from_front(g[None])
                for g, axis in zip(sample_adjoints, use.output_axes, strict=True)
            )
            # The same operation with the arrays of one sample in place of the batch.
            single = dataclasses.replace(use, equation=single_sample_equation, inputs=tuple(inputs))
            _, pullback = jax.vjp(single.evaluate_outputs, use.operands)
            (operand_gradients,) = pullback(cotangents)
            return operand_gradients

        return (data, adjoints), gradient
