"""A scan with its reads of parameters open: their data come out, shifts of their outputs go in.

| value of the body | depends on                    | example                                   |
|-------------------|-------------------------------|-------------------------------------------|
| of parameters     | parameters alone              | a kernel, its cast or transpose           |
| constant          | no iteration, no parameter    | positions, a mask                         |
| data              | the carry, or slices of data  | the state of a recurrent cell             |

An operation of the body that joins parameters with anything else is a read. The opened scan returns
the data that every read has read, one more axis in front for the iterations, so that the reads of
all iterations can be evaluated again at once, outside of the loop. The parameters may be the same
in all iterations (a recurrent network) or a slice of a stack for each of them (layers in a loop).
"""

import enum
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend import core

from gtddp_jax.core.jaxprs import (
    ContainedProgram,
    contained_programs,
    inlinable_program,
    interpret_jaxpr,
)
from gtddp_jax.tracing.traced_program import TracedEquation


class Kind(enum.Enum):
    """What a value of a body depends on; literals and scalars join any other kind."""

    LITERAL = enum.auto()
    CONSTANT = enum.auto()
    PARAMS = enum.auto()
    DATA = enum.auto()


class Marked(NamedTuple):
    """A value of a body and its kind; the value is None where a walk does not compute it."""

    kind: Kind
    value: Any = None


@jax.custom_jvp
def _with_shift(x: jax.Array, shift: jax.Array) -> jax.Array:
    """`x + shift` at a shift of zeros, which costs nothing."""
    del shift
    return x


@_with_shift.defjvp
def _shifted_derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[0] + tangents[1]


class OpenedScan:
    """A scan with its reads open.

    Args:
        equation: the scan.
        kinds: of its inputs.

    Attributes:
        shifts: shape and dtype of a shift for each differentiable output of each read, in the order
            of the body, with the iterations first.
    """

    def __init__(self, equation: core.JaxprEqn, kinds: Sequence[Kind]) -> None:
        self._params = equation.params
        self._first: int = equation.params["num_consts"]
        self._last: int = self._first + equation.params["num_carry"]
        (self._body,) = contained_programs(equation)
        # A constant goes on from one iteration to the next as a carry.
        self._kinds = [
            Kind.DATA if kind is not Kind.PARAMS and position >= self._first else kind
            for position, kind in enumerate(kinds)
        ]
        shapes = _Shapes()
        results = self._walk_body([None] * len(kinds), shapes)
        length = equation.params["length"]
        self.shifts: list[jax.ShapeDtypeStruct] = [
            jax.ShapeDtypeStruct((length, *shape.shape), shape.dtype) for shape in shapes.found
        ]
        carries = self._kinds[self._first : self._last]
        self._is_open = bool(self.shifts) and not any(
            kind is Kind.PARAMS for kind in [*carries, *(result.kind for result in results)]
        )

    @classmethod
    def open(cls, equation: core.JaxprEqn, kinds: Sequence[Kind]) -> "OpenedScan | None":
        """The scan with its reads open; None where parameters also go another way."""
        if equation.primitive.name != "scan":
            return None
        opened = cls(equation, kinds)
        return opened if opened._is_open else None

    def run(self, inputs: Sequence[Any], shifts: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs of the scan, and the data that the reads have read, iterations first.

        Args:
            inputs: of the scan.
            shifts: like `self.shifts`; zeros, to differentiate by.
        """
        consts, carry, slices = self._split(inputs)

        def body(carry: list[Any], sliced: tuple[list[Any], list[Any]]) -> Any:
            values = [*consts, *carry, *sliced[0]]
            recording = _Recording(iter(sliced[1]))
            results = [result.value for result in self._walk_body(values, recording)]
            carries = len(carry)
            return results[:carries], (results[carries:], recording.recorded)

        after, (stacked, recorded) = jax.lax.scan(
            body,
            carry,
            (slices, list(shifts)),
            length=self._params["length"],
            reverse=self._params["reverse"],
            unroll=self._params["unroll"],
        )
        return [*after, *stacked], recorded

    def read_outputs(self, inputs: Sequence[Any], recorded: list[Any]) -> list[Any]:
        """The differentiable outputs of the reads in all iterations, like `self.shifts`.

        Args:
            inputs: of the scan; those that are data are not looked at.
            recorded: from `run`.
        """
        consts, carry, slices = self._split(inputs)
        is_sliced = [kind is Kind.PARAMS for kind in self._kinds[self._last :]]
        stacks = [x for x, sliced in zip(slices, is_sliced, strict=True) if sliced]

        def one_iteration(stacks: list[Any], recorded: list[Any]) -> list[Any]:
            remaining = iter(stacks)
            values = [*consts, *(None for _ in carry)]
            values += [next(remaining) if sliced else None for sliced in is_sliced]
            replay = _Replay(iter(recorded))
            self._walk_body(values, replay)
            return replay.outputs

        length = self._params["length"]
        return jax.vmap(one_iteration, axis_size=length)(stacks, recorded)

    def _walk_body(self, values: Sequence[Any], visitor: "_Visitor") -> list[Marked]:
        """The outputs of the body for the values of its inputs; None where they are not known."""
        marked = [Marked(kind, x) for kind, x in zip(self._kinds, values, strict=True)]
        return _walk(self._body, marked, visitor)

    def _split(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        return (
            list(inputs[: self._first]),
            list(inputs[self._first : self._last]),
            list(inputs[self._last :]),
        )


@runtime_checkable
class _Visitor(Protocol):
    """What a walk does at the equations of a body; the outputs of reads are data."""

    def read(
        self, equation: core.JaxprEqn, inputs: list[Marked], nested: OpenedScan | None
    ) -> Sequence[Any]: ...

    def other(self, equation: core.JaxprEqn, inputs: list[Marked], kind: Kind) -> Sequence[Any]: ...


def _walk(program: ContainedProgram, inputs: Sequence[Marked], visitor: _Visitor) -> list[Marked]:
    """The outputs of a program, with its calls written out."""

    def evaluate(equation: core.JaxprEqn, inputs: list[Marked]) -> list[Marked]:
        called = inlinable_program(equation)
        if called is not None:
            return _walk(called, inputs, visitor)
        kinds = {marked.kind for marked in inputs} - {Kind.LITERAL}
        if Kind.PARAMS in kinds and len(kinds) > 1:
            nested = OpenedScan.open(equation, [marked.kind for marked in inputs])
            outputs = visitor.read(equation, inputs, nested)
            return [Marked(Kind.DATA, output) for output in outputs]
        kind = max(kinds, key=lambda kind: kind.value, default=Kind.CONSTANT)
        outputs = visitor.other(equation, inputs, kind)
        return [Marked(kind, output) for output in outputs]

    constants = [Marked(_kind_of_constant(value), value) for value in program.consts]
    return interpret_jaxpr(
        program,
        constants,
        inputs,
        literal_value=lambda literal: Marked(Kind.LITERAL, literal.val),
        evaluate=evaluate,
    )


def _kind_of_constant(value: Any) -> Kind:
    return Kind.LITERAL if jnp.size(value) == 1 else Kind.CONSTANT


def _values(inputs: list[Marked]) -> list[Any]:
    return [marked.value for marked in inputs]


def _bind(equation: core.JaxprEqn, values: Sequence[Any]) -> tuple[Any, ...]:
    return TracedEquation(equation, (), ())(*values)


def _is_differentiable(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)


class _Shapes:
    """Finds the differentiable outputs of the reads and computes nothing."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def read(
        self, equation: core.JaxprEqn, inputs: list[Marked], nested: OpenedScan | None
    ) -> Sequence[Any]:
        del inputs
        outputs = [v.aval for v in equation.outvars if _is_differentiable(v)]
        self.found += outputs if nested is None else nested.shifts
        return [None] * len(equation.outvars)

    def other(self, equation: core.JaxprEqn, inputs: list[Marked], kind: Kind) -> Sequence[Any]:
        del inputs, kind
        return [None] * len(equation.outvars)


class _Recording:
    """Computes everything, shifts the outputs of the reads and records their data."""

    def __init__(self, shifts: Iterator[Any]) -> None:
        self._shifts = shifts
        self.recorded: list[Any] = []

    def read(
        self, equation: core.JaxprEqn, inputs: list[Marked], nested: OpenedScan | None
    ) -> Sequence[Any]:
        if nested is not None:
            shifts = [next(self._shifts) for _ in nested.shifts]
            outputs, recorded = nested.run(_values(inputs), shifts)
            self.recorded.append(recorded)
            return outputs
        self.recorded.append([x.value for x in inputs if x.kind is Kind.DATA])
        return [
            _with_shift(output, next(self._shifts)) if _is_differentiable(variable) else output
            for variable, output in zip(
                equation.outvars, _bind(equation, _values(inputs)), strict=True
            )
        ]

    def other(self, equation: core.JaxprEqn, inputs: list[Marked], kind: Kind) -> Sequence[Any]:
        del kind
        return _bind(equation, _values(inputs))


class _Replay:
    """Computes what depends on parameters and constants alone, and the reads from records."""

    def __init__(self, recorded: Iterator[Any]) -> None:
        self._recorded = recorded
        self.outputs: list[Any] = []

    def read(
        self, equation: core.JaxprEqn, inputs: list[Marked], nested: OpenedScan | None
    ) -> Sequence[Any]:
        if nested is not None:
            self.outputs += nested.read_outputs(_values(inputs), next(self._recorded))
        else:
            data = iter(next(self._recorded))
            values = [next(data) if x.kind is Kind.DATA else x.value for x in inputs]
            results = zip(equation.outvars, _bind(equation, values), strict=True)
            self.outputs += [output for variable, output in results if _is_differentiable(variable)]
        return [None] * len(equation.outvars)

    def other(self, equation: core.JaxprEqn, inputs: list[Marked], kind: Kind) -> Sequence[Any]:
        if kind is Kind.DATA:
            return [None] * len(equation.outvars)
        return _bind(equation, _values(inputs))
