"""A traced program whose scans have their reads of parameters open."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from gtddp_jax.tracing.opened_scan import Kind, OpenedScan
from gtddp_jax.tracing.param_views import is_layout_change
from gtddp_jax.tracing.parameter_uses import ParameterUse
from gtddp_jax.tracing.traced_program import (
    Atom,
    TracedEquation,
    TracedProgram,
    ValueId,
    evaluate_equation,
    read_atom,
    trace_program,
)


class OpenedLoops(NamedTuple):
    """A program with opened scans; its group "shifts" holds one shift for each of their reads.

    Attributes:
        program: the program, with the outputs that it had.
        read_values: the outputs of the reads in all iterations, one for each shift. Equations that
            the outputs do not need compute them.
    """

    program: TracedProgram
    read_values: tuple[Atom, ...]

    @property
    def loops(self) -> set[int]:
        """The positions of the opened scans."""
        shifts = set(self.program.groups["shifts"])
        equations = enumerate(self.program.equations)
        return {
            index for index, equation in equations if shifts.intersection(equation.value_inputs)
        }


class LoopRead(NamedTuple):
    """A read in an opened scan.

    Attributes:
        shift: the value that shifts its output in the loop.
        layout: the changes of layout from the output of the read, evaluated for all iterations at
            once, to the shift.
    """

    shift: ValueId
    layout: tuple[TracedEquation, ...]

    def lay_out(self, x: Any) -> Any:
        """An array like the output of the read, laid out as the shift."""
        for equation in self.layout:
            (x,) = equation(x)
        return x


def open_loops(
    program: TracedProgram, source_leaves: Sequence[frozenset[int]], reads: Sequence[ParameterUse]
) -> OpenedLoops | None:
    """Opens the scans in which parameters are read; None if there is none that can be opened.

    Args:
        program: the program; its group "params" holds the parameters.
        source_leaves: for each value of parameters, the leaves that it is computed from.
        reads: the uses of parameters, scans among them.
    """
    loops: dict[int, OpenedScan] = {}
    for read in reads:
        equation = program.equations[read.equation_index]
        kinds = [_kind(program, source_leaves, atom) for atom in equation.inputs]
        opened = OpenedScan.open(equation.source, kinds)
        if opened is not None:
            loops[read.equation_index] = opened
    if not loops:
        return None

    def function(params: list[Any], shifts: list[Any]) -> tuple[list[Any], list[Any]]:
        values = program.initial_values(params=params)
        read_values: list[Any] = []
        for index, equation in enumerate(program.equations):
            if index not in loops:
                evaluate_equation(equation, values)
                continue
            loop, count = loops[index], len(read_values)
            inputs = [read_atom(values, atom) for atom in equation.inputs]
            own_shifts = shifts[count : count + len(loop.shifts)]
            outputs, recorded = loop.run(inputs, own_shifts)
            values.update(zip(equation.outputs, outputs, strict=True))
            read_values += loop.read_outputs(inputs, recorded)
        return [read_atom(values, atom) for atom in program.outputs], read_values

    shapes: list[Any] = [program.shapes[value] for value in program.groups["params"]]
    shapes_of_shifts: list[Any] = [
        shift for index in sorted(loops) for shift in loops[index].shifts
    ]
    opened_program = trace_program(function, {}, params=shapes, shifts=shapes_of_shifts)
    count = len(program.outputs)
    return OpenedLoops(
        dataclasses.replace(
            opened_program,
            outputs=opened_program.outputs[:count],
            structure=program.structure,
            has_effects=program.has_effects,
        ),
        opened_program.outputs[count:],
    )


def _kind(program: TracedProgram, source_leaves: Sequence[frozenset[int]], atom: Atom) -> Kind:
    if not isinstance(atom, int):
        return Kind.LITERAL
    if source_leaves[atom]:
        return Kind.PARAMS
    return Kind.LITERAL if program.shapes[atom].size == 1 else Kind.CONSTANT


def match_loop_reads(
    opened: OpenedLoops, reads: Sequence[ParameterUse], needed: set[ValueId]
) -> dict[int, LoopRead] | None:
    """The reads of opened scans by the position of their equation.

    Args:
        opened: the program.
        reads: all of its reads.
        needed: the values that the outputs of the program depend on.

    Returns:
        None if a read of a loop was not found again outside of it.
    """
    program = opened.program
    read_at = {read.equation_index: read for read in reads}
    writers = {value: i for i, eqn in enumerate(program.equations) for value in eqn.outputs}
    found: dict[int, LoopRead] = {}
    for shift, value in zip(program.groups["shifts"], opened.read_values, strict=True):
        layout: list[TracedEquation] = []
        index = writers.get(value) if isinstance(value, int) else None
        while index is not None and index not in read_at:
            equation = program.equations[index]
            if not is_layout_change(equation, program):
                return None
            layout.append(equation)
            index = writers.get(equation.value_inputs[0])
        if index is None or index in found or len(read_at[index].outputs) != 1:
            return None
        found[index] = LoopRead(shift, tuple(reversed(layout)))
    # What is evaluated outside of the loop alone must be one of its reads.
    for read in reads:
        outputs = program.equations[read.equation_index].outputs
        if read.equation_index not in found and not needed.intersection(outputs):
            return None
    return found
