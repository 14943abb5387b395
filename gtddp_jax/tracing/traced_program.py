"""A traced model as a flat list of equations on numbered values.

Calls (`jit`, `remat`, closed calls) are inlined, so that every parameter is visible where it meets
data. Functions with their own derivative rule (`custom_jvp`, `custom_vjp`) and control flow
(`scan`, `while`, `cond`) remain single equations. Equations that neither the outputs nor the
statistics depend on are removed.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend import core

from gtddp_jax.core.jaxprs import ContainedProgram, inlinable_program, interpret_jaxpr
from gtddp_jax.core.types import Tree

ValueId: TypeAlias = int


@runtime_checkable
class LiteralAtom(Protocol):
    """A number written into a program, as `jax.extend.core.Literal` holds it."""

    val: Any


Atom: TypeAlias = ValueId | LiteralAtom


@dataclasses.dataclass(frozen=True)
class TracedEquation:
    """One primitive operation.

    Attributes:
        source: the equation of the jaxpr, with its primitive, parameters and context.
        inputs: the values and literals that it reads.
        outputs: the values that it writes.
    """

    source: core.JaxprEqn
    inputs: tuple[Atom, ...]
    outputs: tuple[ValueId, ...]

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.source.primitive.name

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of the primitive."""
        return self.source.params

    @property
    def value_inputs(self) -> tuple[ValueId, ...]:
        """The inputs that are values, literals left out."""
        return tuple(atom for atom in self.inputs if isinstance(atom, int))

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Evaluates the equation; derivative rules apply as in the traced function."""
        return self.bind_with({}, *inputs)

    def bind_with(self, changed: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """Evaluates the equation with other values of some parameters of the primitive."""
        bind_params = self.source.primitive.get_bind_params({**self.source.params, **changed})
        # The context holds settings of the trace, such as the matmul precision.
        with self.source.ctx.manager:
            outputs = self.source.primitive.bind(*inputs, **bind_params)
        return tuple(outputs) if self.source.primitive.multiple_results else (outputs,)


@dataclasses.dataclass(frozen=True)
class TracedProgram:
    """A traced function of named groups of arrays.

    Attributes:
        equations: the operations in the order of evaluation.
        groups: for each argument of the function, the values of its leaves.
        shapes: shape and dtype of each value.
        constants: values known at tracing time.
        outputs: values and literals of the leaves of the result.
        structure: tree structure of the result.
        has_effects: whether the function prints, calls back or has other effects. Such equations
            may be among those removed.
    """

    equations: tuple[TracedEquation, ...]
    groups: dict[str, tuple[ValueId, ...]]
    shapes: tuple[Any, ...]
    constants: dict[ValueId, Any]
    outputs: tuple[Atom, ...]
    structure: Any
    has_effects: bool

    def initial_values(self, **arguments: Tree) -> dict[ValueId, Any]:
        """The values known before the first equation: constants and the leaves of arguments."""
        values = dict(self.constants)
        for name, tree in arguments.items():
            values |= dict(zip(self.groups[name], jax.tree.leaves(tree), strict=True))
        return values

    def atom_shape(self, atom: Atom) -> tuple[int, ...]:
        """The shape of a value or a literal."""
        return self.shapes[atom].shape if isinstance(atom, int) else jnp.shape(atom.val)

    def differs_in_shapes_only(self, other: "TracedProgram") -> bool:
        """Whether both programs apply the same operations to the same values."""
        return len(self.equations) == len(other.equations) and all(
            first.name == second.name
            and first.outputs == second.outputs
            and len(first.inputs) == len(second.inputs)
            and all(map(_same_atom, first.inputs, second.inputs))
            for first, second in zip(self.equations, other.equations, strict=True)
        )


def _same_atom(first: Atom, second: Atom) -> bool:
    """Whether two atoms are the same value, or both literals (which may depend on the shape)."""
    return first == second if isinstance(first, int) else not isinstance(second, int)


def read_atom(values: Mapping[ValueId, Any], atom: Atom) -> Any:
    """The array that an atom stands for."""
    return values[atom] if isinstance(atom, int) else atom.val


def evaluate_equation(equation: TracedEquation, values: dict[ValueId, Any]) -> None:
    """Evaluates an equation and adds its outputs to `values`."""
    outputs = equation(*(read_atom(values, atom) for atom in equation.inputs))
    values.update(zip(equation.outputs, outputs, strict=True))


class _ProgramBuilder:
    """Numbers the values of a jaxpr while inlining its calls."""

    def __init__(self) -> None:
        self.equations: list[TracedEquation] = []
        self.shapes: list[Any] = []
        self.constants: dict[ValueId, Any] = {}

    def add_value(self, shape: Any) -> ValueId:
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def _add_constant(self, shape: Any, constant: Any) -> ValueId:
        value = self.add_value(shape)
        self.constants[value] = constant
        return value

    def add_program(self, program: ContainedProgram, inputs: Sequence[Atom]) -> list[Atom]:
        """Adds the equations of a program; returns the atoms of its outputs."""
        variables = zip(program.jaxpr.constvars, program.consts, strict=True)
        constants = [self._add_constant(variable.aval, value) for variable, value in variables]
        return interpret_jaxpr(
            program,
            constants,
            inputs,
            literal_value=lambda literal: literal,
            evaluate=self._add_equation,
        )

    def _add_equation(self, source: core.JaxprEqn, inputs: list[Atom]) -> Sequence[Atom]:
        program = inlinable_program(source) or _permuting_reshape(source)
        if program is not None:
            return self.add_program(program, inputs)
        # Everything else stays as it is, loops and custom derivatives included.
        outputs = tuple(self.add_value(variable.aval) for variable in source.outvars)
        self.equations.append(TracedEquation(source, tuple(inputs), outputs))
        return outputs


def _permuting_reshape(source: core.JaxprEqn) -> ContainedProgram | None:
    """A reshape that permutes the axes first, as its two steps; None for any other equation."""
    if source.primitive.name != "reshape" or source.params["dimensions"] is None:
        return None
    params = source.params
    closed = jax.make_jaxpr(
        lambda x: jax.lax.reshape(jax.lax.transpose(x, params["dimensions"]), params["new_sizes"])
    )(source.invars[0].aval)
    return ContainedProgram(closed.jaxpr, closed.consts)


def values_before(equations: Sequence[TracedEquation], outputs: Iterable[ValueId]) -> set[ValueId]:
    """The values that some outputs depend on, these included."""
    needed = set(outputs)
    # Backwards, every reader of a value has been seen before its writer.
    for equation in reversed(equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.value_inputs)
    return needed


def _remove_unused(
    equations: Sequence[TracedEquation], outputs: Iterable[Atom]
) -> tuple[TracedEquation, ...]:
    """The equations that the outputs depend on."""
    needed = values_before(equations, (atom for atom in outputs if isinstance(atom, int)))
    return tuple(equation for equation in equations if needed.intersection(equation.outputs))


EXAMPLE_DEVICES = 2
"""The size of a mapped axis in a trace outside of it."""


def axis_sizes(axes: Iterable[Hashable]) -> dict[Hashable, int | None]:
    """The sizes of mapped axes where this is called; None for those that are not bound here."""
    sizes: dict[Hashable, int | None] = {}
    for axis in axes:
        try:
            sizes[axis] = jax.lax.axis_size(axis)
        except NameError:
            sizes[axis] = None
    return sizes


def trace_program(
    function: Callable[..., Tree], sizes: Mapping[Hashable, int | None], **arguments: Tree
) -> TracedProgram:
    """Traces `function(**arguments)`.

    Args:
        function: takes the arguments by name.
        sizes: the mapped axes that it may name, from `axis_sizes`.
        arguments: trees of arrays or shapes.
    """
    # make_jaxpr sees the leaves alone, so that each input variable is one leaf.
    leaves, structure = jax.tree.flatten(arguments)
    unbound = [(axis, EXAMPLE_DEVICES) for axis, size in sizes.items() if size is None]
    closed, result_shape = jax.make_jaxpr(
        lambda *flat: function(**jax.tree.unflatten(structure, flat)),
        axis_env=unbound,
        return_shape=True,
    )(*leaves)
    builder = _ProgramBuilder()
    inputs = [builder.add_value(variable.aval) for variable in closed.jaxpr.invars]
    outputs = builder.add_program(ContainedProgram(closed.jaxpr, closed.consts), inputs)
    groups = jax.tree.unflatten(structure, inputs)
    return TracedProgram(
        equations=_remove_unused(builder.equations, outputs),
        groups={name: tuple(jax.tree.leaves(groups[name])) for name in arguments},
        shapes=tuple(builder.shapes),
        constants=builder.constants,
        outputs=tuple(outputs),
        structure=jax.tree.structure(result_shape),
        has_effects=bool(closed.effects),
    )
