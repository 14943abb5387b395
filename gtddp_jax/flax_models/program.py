"""A traced model as a flat list of equations on numbered values.

Calls (`jit`, `remat`, closed calls) are opened, so that every parameter is seen where it meets
data. Functions with a derivative of their own (`custom_jvp`, `custom_vjp`) and control flow
(`scan`, `while`, `cond`) stay single equations. What neither outputs nor statistics need is left
out.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

from gtddp_jax.core.types import Tree

Value = int
Atom = Any  # Value | core.Literal

OPENED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_lin": "jaxpr",
}
"""Calls that are opened, and the parameter that holds what they call."""


@dataclasses.dataclass(frozen=True)
class Equation:
    """One primitive operation.

    Attributes:
        source: the traced equation: its primitive, parameters and context.
        inputs: values and literals that it reads.
        outputs: values that it writes.
    """

    source: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.source.primitive.name

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of the primitive."""
        return self.source.params

    @property
    def read(self) -> tuple[Value, ...]:
        """The values among the inputs."""
        return tuple(v for v in self.inputs if isinstance(v, int))

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Evaluates the equation; derivatives pass through it as through the original."""
        bind = self.source.primitive.get_bind_params(self.source.params)
        if isinstance(bind, tuple):  # jax before 0.8
            functions, bind = bind
            inputs = (*functions, *inputs)
        with self.source.ctx.manager:
            found = self.source.primitive.bind(*inputs, **bind)
        return tuple(found) if self.source.primitive.multiple_results else (found,)


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function of named groups of arrays.

    Attributes:
        equations: in the order of evaluation.
        groups: for each argument, the values of its leaves.
        shapes: shape and dtype of each value.
        constants: values known at the time of tracing.
        outputs: values and literals of the leaves of the result.
        structure: the structure of the result.
    """

    equations: tuple[Equation, ...]
    groups: dict[str, tuple[Value, ...]]
    shapes: tuple[Any, ...]
    constants: dict[Value, Any]
    outputs: tuple[Atom, ...]
    structure: Any

    def start(self, **arguments: Tree) -> dict[Value, Any]:
        """The values that are known before the first equation."""
        values = dict(self.constants)
        for name, tree in arguments.items():
            values |= dict(zip(self.groups[name], jax.tree.leaves(tree), strict=True))
        return values

    def same_as(self, other: "Program") -> bool:
        """Whether the other program differs in shapes only."""
        return len(self.equations) == len(other.equations) and all(
            a.name == b.name
            and a.outputs == b.outputs
            and len(a.inputs) == len(b.inputs)
            and all(
                (x == y) if isinstance(x, int) else not isinstance(y, int)
                for x, y in zip(a.inputs, b.inputs, strict=True)
            )
            for a, b in zip(self.equations, other.equations, strict=True)
        )


def read(values: Mapping[Value, Any], atom: Atom) -> Any:
    """The array that an atom stands for."""
    return values[atom] if isinstance(atom, int) else atom.val


def evaluate(equation: Equation, values: dict[Value, Any]) -> None:
    """Adds what an equation writes to `values`."""
    found = equation(*(read(values, atom) for atom in equation.inputs))
    values.update(zip(equation.outputs, found, strict=True))


class _Opening:
    """Numbers values while calls are opened."""

    def __init__(self) -> None:
        self.equations: list[Equation] = []
        self.shapes: list[Any] = []
        self.constants: dict[Value, Any] = {}

    def value(self, aval: Any) -> Value:
        self.shapes.append(aval)
        return len(self.shapes) - 1

    def constant(self, aval: Any, value: Any) -> Value:
        number = self.value(aval)
        self.constants[number] = value
        return number

    def open(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Atom]) -> list[Atom]:
        """Adds the equations of a jaxpr; returns what its outputs are."""
        names: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            names[variable] = self.constant(variable.aval, value)

        def look(atom: Any) -> Atom:
            return atom if isinstance(atom, core.Literal) else names[atom]

        for equation in jaxpr.eqns:
            given = [look(atom) for atom in equation.invars]
            inner = OPENED.get(equation.primitive.name)
            if inner is not None and inner in equation.params:
                called = equation.params[inner]
                body, extra = (
                    (called.jaxpr, called.consts) if hasattr(called, "consts") else (called, ())
                )
                found = self.open(body, extra, given)
            else:
                found = [self.value(variable.aval) for variable in equation.outvars]
                self.equations.append(Equation(equation, tuple(given), tuple(found)))
            names |= dict(zip(equation.outvars, found, strict=True))
        return [look(atom) for atom in jaxpr.outvars]


def _needed(equations: Sequence[Equation], outputs: Iterable[Atom]) -> tuple[Equation, ...]:
    """The equations that the outputs need."""
    wanted = {atom for atom in outputs if isinstance(atom, int)}
    kept = []
    for equation in reversed(equations):
        if wanted.intersection(equation.outputs):
            wanted.update(equation.read)
            kept.append(equation)
    return tuple(reversed(kept))


def trace(function: Callable[..., Tree], **arguments: Tree) -> Program:
    """The program of `function(**arguments)`.

    Args:
        function: takes the arguments by name.
        arguments: trees of arrays or shapes.
    """
    names = list(arguments)
    leaves, structure = jax.tree.flatten(arguments)
    closed, shape = jax.make_jaxpr(
        lambda *flat: function(**jax.tree.unflatten(structure, flat)), return_shape=True
    )(*leaves)
    opening = _Opening()
    numbers = [opening.value(variable.aval) for variable in closed.jaxpr.invars]
    outputs = opening.open(closed.jaxpr, closed.consts, numbers)
    groups = jax.tree.unflatten(structure, numbers)
    return Program(
        equations=_needed(opening.equations, outputs),
        groups={name: tuple(jax.tree.leaves(groups[name])) for name in names},
        shapes=tuple(opening.shapes),
        constants=opening.constants,
        outputs=tuple(outputs),
        structure=jax.tree.structure(shape),
    )
