"""One pass of a read function: its outputs, the adjoints of its reads, and weighted gradients."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Outputs, PerSample
from gtddp_jax.tracing.parameter_reads import ReadFunction
from gtddp_jax.tracing.traced_program import ValueId, evaluate_equation, read_atom

Leaves: TypeAlias = list[Any]

Adjoints: TypeAlias = list[list[jax.Array]]
"""For each read, the derivatives by its differentiable outputs."""


class AdjointPass:
    """A forward pass at the parameters, of which derivatives by reads and parameters follow.

    With `read_fn.reuses_adjoints`, the adjoints of all samples' losses serve the weighted gradient
    too: those of a sample are multiplied by its weight. Otherwise a second pass from the outputs
    down computes it, because an adjoint may hold parts of other samples' losses.

    Args:
        read_fn: the function.
        params: the leaves of the parameters.
        samples: the samples.

    Attributes:
        pull_back: maps the derivatives of a number by the outputs to its adjoints.
        adjoints: those that `propagate` computed.
    """

    def __init__(
        self, read_fn: ReadFunction, params: Sequence[Any], samples: SampleReductions
    ) -> None:
        self.read_fn: ReadFunction = read_fn
        self.params: Leaves = list(params)
        program = read_fn.program

        def zeros(value: ValueId) -> jax.Array:
            return jnp.zeros(program.shapes[value].shape, program.shapes[value].dtype)

        shifts: Any = samples.local_copy(
            [
                [zeros(program.equations[read.equation_index].outputs[i]) for i in read.outputs]
                for read in read_fn.reads
            ]
        )
        if read_fn.reuses_adjoints:
            forward = functools.partial(self._forward, self.params)
            outputs, pull_back, rest = jax.vjp(forward, shifts, has_aux=True)
            self.pull_back: Callable[[Outputs], Adjoints] = lambda g: pull_back(g)[0]
        else:
            outputs, pull_back, rest = jax.vjp(self._forward, self.params, shifts, has_aux=True)
            self.pull_back = lambda g: pull_back(g)[1]
            self._pull_params: Callable[[Any], Leaves] = lambda g: pull_back(g)[0]
        self.outputs: Leaves = outputs
        rest, recorded = rest
        self.rest: Any = rest
        # What reads are evaluated from besides parameters.
        self.data: dict[ValueId, Any] = {**program.constants, **recorded}
        self.adjoints: Adjoints = []

    def _forward(self, params: Leaves, shifts: Adjoints) -> tuple[Leaves, Any]:
        """The leaves of the outputs; the leaves of the rest, and what the reads have read."""
        program = self.read_fn.program
        values = program.initial_values(params=params)
        reads, shift_at = {}, {}
        for read, of_read in zip(self.read_fn.reads, shifts, strict=True):
            loop_read = self.read_fn.loop_reads.get(read.equation_index)
            if loop_read is None:
                reads[read.equation_index], shift_at[read.equation_index] = read, of_read
            else:
                values[loop_read.shift] = loop_read.lay_out(of_read[0])
        for index, equation in enumerate(program.equations):
            evaluate_equation(equation, values)
            if index in reads:
                for position, shift in zip(reads[index].outputs, shift_at[index], strict=True):
                    value = equation.outputs[position]
                    values[value] = values[value] + shift
        leaves = [read_atom(values, atom) for atom in program.outputs]
        count = self.read_fn.output_count
        # Inputs of reads are kept as they were read: only values of activations are recorded.
        recorded = {value: values[value] for value in self._recorded_values()}
        return leaves[:count], (leaves[count:], recorded)

    def _recorded_values(self) -> set[ValueId]:
        """What reads and values of parameters are computed from besides parameters."""
        program, sources = self.read_fn.program, self.read_fn.source_leaves
        indices = [
            *(read.equation_index for read in self.read_fn.reads),
            *self.read_fn.parameter_equations,
        ]
        return {
            value
            for index in indices
            for value in program.equations[index].value_inputs
            if not sources[value]
        }

    def propagate(self, gradient: Outputs) -> None:
        """Computes the adjoints of all samples' losses.

        Args:
            gradient: the gradient of each sample's loss by its outputs, a list like `outputs`.
        """
        self.adjoints = self.pull_back(gradient)

    def weighted_gradient(self, gradient: Outputs, w: PerSample) -> Leaves:
        """`sum_i w_i G_i` over the samples of this device.

        Args:
            gradient: the weighted gradient of the losses by the outputs; see `propagate`.
            w: the weights.
        """
        if not self.read_fn.reuses_adjoints:
            return self._pull_params(gradient)
        program, samples = self.read_fn.program, self.read_fn.samples
        scaled_data = self._scaled_data(w)
        weighted = [
            of_read
            if read.equation_index in scaled_data
            else [
                samples.scale_samples(program.equations[read.equation_index].outputs[i], g, w)
                for i, g in zip(read.outputs, of_read, strict=True)
            ]
            for read, of_read in zip(self.read_fn.reads, self.adjoints, strict=True)
        ]
        # Nothing of this forward pass but the derivative is used, so most of it is dead code.
        _, pull_back = jax.vjp(
            functools.partial(self._read_outputs, scaled_data=scaled_data), self.params
        )
        return pull_back(weighted)[0]

    def _scaled_data(self, w: PerSample) -> dict[int, dict[ValueId, jax.Array]]:
        """Data times one weight per sample, by the position of the products that read them.

        Those data that are smaller than the outputs of all products that read them: the cheaper
        side to scale. Where both are equal, data that are not scaled serve other sums as well.
        """
        program, samples = self.read_fn.program, self.read_fn.samples
        data_of: dict[int, ValueId] = {}
        output_sizes: Counter[ValueId] = Counter()
        for read in self.read_fn.reads:
            data = self.read_fn.product_data(read)
            if data is not None:
                (output, *_) = program.equations[read.equation_index].outputs
                data_of[read.equation_index] = data
                output_sizes[data] += program.shapes[output].size
        smaller = {
            index: data
            for index, data in data_of.items()
            if program.shapes[data].size < output_sizes[data]
        }
        scaled = {
            data: samples.scale_samples(data, self.data[data], w) for data in set(smaller.values())
        }
        return {index: {data: scaled[data]} for index, data in smaller.items()}

    def _read_outputs(
        self, params: Leaves, scaled_data: Mapping[int, dict[ValueId, jax.Array]]
    ) -> Adjoints:
        """The outputs of all reads as functions of the parameters, at recorded data.

        Args:
            params: the parameters.
            scaled_data: other data of some reads, by the position of their equation.
        """
        program = self.read_fn.program
        values = self.read_fn.with_parameters(self.data, params)
        outputs = []
        for read in self.read_fn.reads:
            equation = program.equations[read.equation_index]
            own_values = values | scaled_data.get(read.equation_index, {})
            results = equation(*(read_atom(own_values, atom) for atom in equation.inputs))
            outputs.append([results[position] for position in read.outputs])
        return outputs
