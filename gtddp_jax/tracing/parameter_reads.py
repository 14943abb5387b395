"""Where a traced function of the parameters reads them, and how far samples stay apart after that.

| value         | depends on              | runs over samples | example                           |
|---------------|-------------------------|-------------------|-----------------------------------|
| of parameters | parameters              | no                | a cast, a transpose, `rsqrt(v) * s`|
| an activation | parameters, or anything | yes               | the output of a layer             |

A *read* is a use of parameters (`ParameterUse`) that is found without refusing any program. Every
way from a parameter to the outputs leads through a read, so the derivative by the parameters is the
sum over reads of the derivative by their outputs, the adjoints, times that of the read itself.
The reads inside of a scan are evaluated for all iterations at once (`opened_loops`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Tree
from gtddp_jax.tracing.opened_loops import (
    LoopRead,
    OpenedLoops,
    match_loop_reads,
    open_loops,
)
from gtddp_jax.tracing.parameter_uses import NO_LEAVES, ParameterUse
from gtddp_jax.tracing.sample_labels import SampleLabels
from gtddp_jax.tracing.traced_program import (
    TracedProgram,
    ValueId,
    evaluate_equation,
    trace_program,
    values_before,
)

PRODUCTS = ("dot_general", "conv_general_dilated")
"""Operations that are linear in their data and in a parameter."""

OPAQUE = frozenset({"scan", "while", "cond", "custom_vjp_call", "custom_jvp_call", "pallas_call"})
"""Operations whose second evaluation would cost about as much as the first."""


@dataclasses.dataclass(frozen=True)
class ReadFunction:
    """A function of the parameters, traced and read.

    Attributes:
        program: its program; the group "params" holds the parameters.
        output_count: how many leaves of the result are differentiable outputs; they come first.
        samples: the samples.
        reads: the reads, in the order of the program.
        source_leaves: for each value of parameters, the leaves that it is computed from.
        reuses_adjoints: whether the adjoints of the sum of all losses, each sample's times its
            weight, are those of the weighted sum, and the reads are cheap to evaluate again.
        loop_reads: the reads inside of opened scans, by the position of their equation.
    """

    program: TracedProgram
    output_count: int
    samples: SampleLabels
    reads: tuple[ParameterUse, ...]
    source_leaves: tuple[frozenset[int], ...]
    reuses_adjoints: bool
    loop_reads: Mapping[int, LoopRead]

    @property
    def producers(self) -> dict[ValueId, int]:
        """For each value that is computed from parameters, the position of its equation."""
        equations = self.program.equations
        return {
            value: index for index in self.parameter_equations for value in equations[index].outputs
        }

    def product_data(self, read: ParameterUse) -> ValueId | None:
        """The data that a product joins with a parameter; None for other reads."""
        equation = self.program.equations[read.equation_index]
        if equation.name not in PRODUCTS or len(read.operands) != 1:
            return None
        data = equation.inputs[1 - read.operands[0]]
        return data if isinstance(data, int) and self.samples.is_per_sample(data) else None

    @property
    def parameter_equations(self) -> list[int]:
        """The equations that compute values of parameters from others."""
        equations = self.program.equations
        return [
            index
            for index, equation in enumerate(equations)
            if any(self.source_leaves[value] for value in equation.outputs)
        ]

    def with_parameters(
        self, data: Mapping[ValueId, Any], params: Sequence[Any]
    ) -> dict[ValueId, Any]:
        """Data, the leaves of the parameters, and the values that are computed from these."""
        values = {**data, **dict(zip(self.program.groups["params"], params, strict=True))}
        for index in self.parameter_equations:
            evaluate_equation(self.program.equations[index], values)
        return values


def read_function(function: Callable[[Tree], tuple[Any, Any]], params: Tree) -> ReadFunction | None:
    """Traces and reads `function(params) -> (outputs, rest)`.

    Args:
        function: the leaves of `outputs` are differentiable arrays with one row per sample.
        params: the parameters.

    Returns:
        What was read; None if there is one sample only, or outputs that depend on no parameter.
    """
    counts: list[int] = []

    def counted(params: Tree) -> tuple[Any, Any]:
        outputs, rest = function(params)
        counts.append(len(jax.tree.leaves(outputs)))
        return outputs, rest

    program = trace_program(counted, {}, params=params)
    outputs = [atom for atom in program.outputs[: counts[0]] if isinstance(atom, int)]
    if not outputs or len(outputs) < counts[0]:
        return None
    # An output without rows is refused by name once the loss has been called.
    if not all(program.shapes[value].shape for value in outputs):
        return None
    read_fn = _read_program(program, counts[0], None)
    if read_fn is None:
        return None
    opened = open_loops(program, read_fn.source_leaves, read_fn.reads)
    read_opened = opened and _read_program(opened.program, counts[0], opened)
    return read_opened or read_fn


def _read_program(
    program: TracedProgram, output_count: int, opened: OpenedLoops | None
) -> ReadFunction | None:
    """Reads a program; None if there is nothing to read, or loops were opened in vain."""
    outputs = [atom for atom in program.outputs[:output_count] if isinstance(atom, int)]
    samples = SampleLabels(program, outputs)
    if not samples.labels:
        return None
    needed = values_before(program.equations, outputs)
    read_values = [] if opened is None else [a for a in opened.read_values if isinstance(a, int)]
    wanted = values_before(program.equations, [*outputs, *read_values])
    loops = set() if opened is None else opened.loops
    reads, source_leaves = _find_reads(program, samples, wanted, loops)
    loop_reads = {} if opened is None else match_loop_reads(opened, reads, needed)
    if not reads or loop_reads is None:
        return None
    coupled = _values_before_coupling(program, samples, needed)

    def is_separate(read: ParameterUse) -> bool:
        equation = program.equations[read.equation_index]
        values = [equation.outputs[position] for position in read.outputs]
        # In the program of the outputs, a read of a loop is known by its shift.
        loop_read = loop_reads.get(read.equation_index)
        places = values if loop_read is None else [loop_read.shift]
        return (
            equation.name not in OPAQUE
            and all(map(samples.is_per_sample, values))
            and coupled.isdisjoint(places)
        )

    return ReadFunction(
        program,
        output_count,
        samples,
        tuple(reads),
        tuple(source_leaves),
        all(map(is_separate, reads)),
        loop_reads,
    )


def _values_before_coupling(
    program: TracedProgram, samples: SampleLabels, needed: set[ValueId]
) -> set[ValueId]:
    """The values through which samples influence each other on the way to the outputs."""
    coupled: set[ValueId] = set()
    for index, equation in reversed(list(enumerate(program.equations))):
        mixes = index in samples.coupling_equations and needed.intersection(equation.outputs)
        if mixes or coupled.intersection(equation.outputs):
            coupled.update(equation.value_inputs)
    return coupled


def _find_reads(
    program: TracedProgram, samples: SampleLabels, needed: set[ValueId], loops: set[int]
) -> tuple[list[ParameterUse], list[frozenset[int]]]:
    """The reads, and for each value of parameters the leaves that it is computed from.

    Args:
        program: the program.
        samples: its samples.
        needed: the values of which derivatives are wanted.
        loops: the positions of opened scans, whose reads are other equations.
    """
    source_leaves = [NO_LEAVES] * len(program.shapes)
    for leaf, value in enumerate(program.groups["params"]):
        source_leaves[value] = frozenset({leaf})
    reads: list[ParameterUse] = []
    for index, equation in enumerate(program.equations):
        operands = {
            position: source_leaves[atom]
            for position, atom in enumerate(equation.inputs)
            if isinstance(atom, int) and source_leaves[atom]
        }
        if not operands or index in loops:
            continue
        leaves = NO_LEAVES.union(*operands.values())
        is_per_batch = not any(samples.has_samples(value) for value in equation.outputs)
        outputs = tuple(
            position
            for position, value in enumerate(equation.outputs)
            if value in needed and jnp.issubdtype(program.shapes[value].dtype, jnp.inexact)
        )
        if is_per_batch:
            for value in equation.outputs:
                source_leaves[value] = leaves
        elif outputs:
            reads.append(ParameterUse(index, tuple(operands), leaves, outputs))
    return reads, source_leaves
