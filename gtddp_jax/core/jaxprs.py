"""How the equations of a jaxpr contain other jaxprs, and the walks over them.

| equation                          | contains                                                     |
|-----------------------------------|--------------------------------------------------------------|
| `jit`, `checkpoint`, closed calls | a program that runs once on the equation's inputs            |
| `custom_jvp`, `custom_vjp`        | the same, with its own derivative rule                       |
| `shard_map`, `pmap`               | the same, on every device                                    |
| `scan`                            | a body that runs `length` times on inputs or slices of them  |
| `while`, `cond`                   | several programs, each on some of the inputs                 |
| `custom_linear_solve`             | four programs, of which `solve` computes the result          |
| `reduce`, `scatter`, `pallas`     | a program for single entries or blocks of the inputs         |
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

AbstractValue = TypeVar("AbstractValue")

INLINABLE_CALLS = frozenset({"jit", "closed_call", "core_call", "checkpoint", "remat2"})
"""Calls that mean the same when their program is written out in their place."""

CALLED_PROGRAM_PARAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call", "callee")
"""Parameters in which an equation keeps a program that runs on its own inputs."""

PROGRAMS_FOR_ENTRIES = frozenset({"reduce", "reduce_window", "pallas_call"})
"""Primitives whose program runs on entries or blocks of the inputs, not on the inputs."""

NON_ELEMENTWISE = re.compile(
    r".*dot_general.*|conv_.*|while|scan|cond|sort|.*top_k|fft|scatter.*|reduce.*|arg(max|min)|cum.*|"
    r"cholesky.*|eigh?|svd|qr|householder.*|lu.*|schur|tri(angular|diagonal).*|.*_solve|psum.*|all_.*|"
    r"scaled_.*|dot_product_.*|.*callback|(pallas|ffi|tpu_custom)_call"
)
"""Names of primitives that take more than one pass over their inputs, whose rounding depends on the
program around them, or that run foreign code."""


class ContainedProgram(NamedTuple):
    """A program inside an equation.

    Attributes:
        jaxpr: its equations.
        consts: the values of its constant variables.
    """

    jaxpr: core.Jaxpr
    consts: Sequence[Any]


def as_program(candidate: Any) -> ContainedProgram | None:
    """A parameter of an equation as a program; None if it is something else."""
    # `checkpoint` holds an open jaxpr, the other primitives closed ones.
    if isinstance(candidate, core.ClosedJaxpr):
        return ContainedProgram(candidate.jaxpr, candidate.consts)
    return ContainedProgram(candidate, ()) if isinstance(candidate, core.Jaxpr) else None


def contained_programs(equation: core.JaxprEqn) -> list[ContainedProgram]:
    """All programs among the parameters of an equation, alone or in sequences."""
    programs = []
    for param in equation.params.values():
        # `cond` keeps its branches in a tuple.
        for candidate in param if isinstance(param, (tuple, list)) else (param,):
            program = as_program(candidate)
            if program is not None:
                programs.append(program)
    return programs


def called_program(equation: core.JaxprEqn) -> ContainedProgram | None:
    """The program that an equation runs on all of its inputs; None if it does no such thing."""
    if equation.primitive.name in PROGRAMS_FOR_ENTRIES:
        return None
    for name in CALLED_PROGRAM_PARAMS:
        if name in equation.params:
            program = as_program(equation.params[name])
            # A program with another number of inputs does not simply run on them.
            matches = program is not None and len(program.jaxpr.invars) == len(equation.invars)
            return program if matches else None
    return None


def inlinable_program(equation: core.JaxprEqn) -> ContainedProgram | None:
    """The program of a call that may be written out in its place; None for other equations."""
    return called_program(equation) if equation.primitive.name in INLINABLE_CALLS else None


def interpret_jaxpr(
    program: ContainedProgram,
    const_values: Sequence[AbstractValue],
    inputs: Sequence[AbstractValue],
    *,
    literal_value: Callable[[core.Literal], AbstractValue],
    evaluate: Callable[[core.JaxprEqn, list[AbstractValue]], Sequence[AbstractValue]],
) -> list[AbstractValue]:
    """Runs a program on abstract values: whatever a walk wants to know about its variables.

    Args:
        program: the program.
        const_values: values of its constant variables.
        inputs: values of its inputs.
        literal_value: the value of a literal.
        evaluate: from an equation and the values of its inputs to those of its outputs.

    Returns:
        The values of its outputs.
    """
    environment: dict[Any, AbstractValue] = {}
    environment.update(zip(program.jaxpr.constvars, const_values, strict=True))
    environment.update(zip(program.jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> AbstractValue:
        return literal_value(atom) if isinstance(atom, core.Literal) else environment[atom]

    for equation in program.jaxpr.eqns:
        outputs = evaluate(equation, [read(atom) for atom in equation.invars])
        environment.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in program.jaxpr.outvars]


def all_equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Every equation of a program, those of the programs inside its equations included."""
    for equation in jaxpr.eqns:
        yield equation
        for program in contained_programs(equation):
            yield from all_equations(program.jaxpr)


def reads_argument(function: Callable[[Any], Any], argument: Any) -> bool:
    """Whether a result of a function depends on its argument, as far as its program tells."""
    program = jax.make_jaxpr(function)(argument).jaxpr
    _, used = dce_jaxpr(program, [True] * len(program.outvars))
    return any(used)
