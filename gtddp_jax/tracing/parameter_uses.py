"""Where parameters meet data, and the values that are computed from parameters alone.

| value         | sample axis | example                                                        |
|---------------|-------------|----------------------------------------------------------------|
| an activation | yes         | outputs of layers                                              |
| of parameters | no          | a parameter, its transpose or cast, `rsqrt(var + eps) * scale` |
| of the batch  | no          | the mean and variance of BatchNorm                             |

A *use* is an equation that reads a value of parameters and writes an activation. The gradient of
one sample's loss with respect to a parameter is the sum over the parameter's uses.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.pure_model import ParamPath
from gtddp_jax.tracing.sample_axes import COUPLED, SampleAxis
from gtddp_jax.tracing.traced_program import (
    Atom,
    TracedEquation,
    TracedProgram,
    ValueId,
    values_before,
)

NO_LEAVES: frozenset[int] = frozenset()


class ParameterUse(NamedTuple):
    """An equation in which parameters meet data.

    Attributes:
        equation_index: position of the equation in the program.
        operands: which of its inputs are values of parameters.
        leaves: the parameters that these are computed from.
        outputs: which of its outputs are differentiable activations.
    """

    equation_index: int
    operands: tuple[int, ...]
    leaves: frozenset[int]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class BatchedProgram:
    """The training pass of a model at one batch size.

    Attributes:
        program: the traced training pass.
        sample_axes: the sample axis of each value.
        batch_size: the number of samples.
        output_count: how many leaves of the program's result are outputs of the model; the others
            are its next state.
        coupling_equations: the equations inside of which samples influence each other.
    """

    program: TracedProgram
    sample_axes: tuple[SampleAxis | None, ...]
    batch_size: int
    output_count: int
    coupling_equations: frozenset[int]

    @property
    def output_atoms(self) -> tuple[Atom, ...]:
        """The leaves of the model's outputs, as values and literals of the program."""
        return self.program.outputs[: self.output_count]

    @property
    def output_values(self) -> tuple[ValueId, ...]:
        """The values among the leaves of the model's outputs, each once."""
        return tuple(dict.fromkeys(atom for atom in self.output_atoms if isinstance(atom, int)))

    def activation_axis(self, value: ValueId) -> SampleAxis:
        """The sample axis of an activation."""
        sample_axis = self.sample_axes[value]
        assert sample_axis is not None and sample_axis != COUPLED, "not an activation"
        return sample_axis

    def is_differentiable(self, value: ValueId) -> bool:
        """Whether the dtype of a value has derivatives."""
        return jnp.issubdtype(self.program.shapes[value].dtype, jnp.inexact)


def _join_paths(paths: Sequence[ParamPath], leaves: frozenset[int]) -> str:
    return ", ".join("/".join(paths[leaf]) for leaf in sorted(leaves))


def _use_outputs(
    batched: BatchedProgram,
    equation: TracedEquation,
    leaves: frozenset[int],
    paths: Sequence[ParamPath],
    needed: set[ValueId],
) -> tuple[int, ...]:
    """The activations that a use writes.

    Raises:
        NetworkError: the equation does not treat samples separately.
    """
    where = f"from_flax: {_join_paths(paths, leaves)} in `{equation.name}`"
    outputs = []
    for position, value in enumerate(equation.outputs):
        if value not in needed or not batched.is_differentiable(value):
            continue
        # A mean over the batch, for example: its gradient has no single sample.
        if batched.sample_axes[value] is None:
            raise NetworkError(
                f"{where}: the operation also computes a value for the whole batch, of shape "
                f"{batched.program.shapes[value].shape}, on which the outputs depend. Parameters "
                "must act on each sample separately."
            )
        outputs.append(position)
    # Per-sample gradients are only defined if no sample reads another one here.
    values = (*equation.outputs, *equation.value_inputs)
    if any(batched.sample_axes[value] == COUPLED for value in values):
        raise NetworkError(
            f"{where}: samples are compared with each other (two axes grow with the batch). "
            "Parameters must act on each sample separately."
        )
    return tuple(outputs)


def find_parameter_uses(
    batched: BatchedProgram, paths: Sequence[ParamPath]
) -> tuple[tuple[ParameterUse, ...], list[frozenset[int]]]:
    """Finds all uses of parameters and the values computed from parameters.

    Args:
        batched: the model; its group "params" holds the parameters.
        paths: paths of the parameters.

    Returns:
        The uses in the order of the program, and for each value the parameters it is computed from
        (none for activations).

    Raises:
        NetworkError: samples are mixed where parameters act.
    """
    program, sample_axes = batched.program, batched.sample_axes
    needed = values_before(batched.program.equations, batched.output_values)
    source_leaves = [NO_LEAVES] * len(program.shapes)
    # Parameters are their own source; other values inherit those of what they are computed from.
    for leaf, value in enumerate(program.groups["params"]):
        source_leaves[value] = frozenset({leaf})
    uses = []
    for index, equation in enumerate(program.equations):
        operands = {
            position: source_leaves[atom]
            for position, atom in enumerate(equation.inputs)
            if isinstance(atom, int) and source_leaves[atom]
        }
        if not operands:
            continue
        leaves = NO_LEAVES.union(*operands.values())
        # Equations that only statistics depend on pass no gradient.
        is_needed = bool(needed.intersection(equation.outputs))
        # Writing an activation makes the equation a use.
        if any(sample_axes[value] is not None for value in equation.outputs):
            if is_needed and index in batched.coupling_equations:
                raise NetworkError(
                    f"from_flax: {_join_paths(paths, leaves)} in `{equation.name}`: samples "
                    "influence each other inside of this operation, as by batch normalization in "
                    "nn.scan. Parameters must act on each sample separately: write the loop out "
                    "in Python, or use gtddp_jax.implicit, which takes any model."
                )
            outputs = _use_outputs(batched, equation, leaves, paths, needed) if is_needed else ()
            if outputs:
                uses.append(ParameterUse(index, tuple(operands), leaves, outputs))
            continue
        if is_needed and any(sample_axes[value] is not None for value in equation.value_inputs):
            raise NetworkError(
                f"from_flax: {_join_paths(paths, leaves)} in `{equation.name}`: one operation "
                "reads parameters and sums over samples. Parameters must act on each sample "
                "separately."
            )
        # Without a sample axis, the outputs are values of parameters; integers have no gradient.
        for value in equation.outputs:
            if batched.is_differentiable(value):
                source_leaves[value] = leaves
    return tuple(uses), source_leaves
