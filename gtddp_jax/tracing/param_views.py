"""Values that are a parameter in another layout: transposes, reshapes, casts.

The gradient with respect to such a view is the parameter's gradient in the view's layout. Sums
over samples are therefore computed where the parameter is used, and laid out as the parameter
afterwards.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.tracing.traced_program import TracedEquation, TracedProgram, ValueId

RESHAPING = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim"}
UNCHANGED_SHAPE = {"convert_element_type", "copy", "copy_p", "reduce_precision"}


class LayoutStep(NamedTuple):
    """One change of layout.

    Attributes:
        permutation: the permutation of a transpose; None for a reshape or a cast.
        shape: the shape afterwards.
    """

    permutation: tuple[int, ...] | None
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ParamView:
    """How a parameter is laid out where it is used.

    Attributes:
        steps: the changes of layout, from the parameter on.
        shape: shape of the parameter.
    """

    steps: tuple[LayoutStep, ...]
    shape: tuple[int, ...]

    @property
    def keeps_order(self) -> bool:
        """Whether the entries keep their row-major order."""
        return all(step.permutation is None for step in self.steps)

    def to_use_layout(self, x: jax.Array) -> jax.Array:
        """A parameter, or an array of its shape, in the layout of the use; a scalar stays one."""
        if jnp.ndim(x) == 0 and self.shape:
            return x
        for permutation, shape in self.steps:
            x = x.reshape(shape) if permutation is None else x.transpose(permutation)
        return x

    def to_param_layout(self, x: jax.Array) -> jax.Array:
        """The inverse of `to_use_layout`, for arrays `[..., *layout of the use]`."""
        use_shape = self.steps[-1].shape if self.steps else self.shape
        leading = x.shape[: x.ndim - len(use_shape)]
        offset = len(leading)
        shapes_before = [self.shape, *(step.shape for step in self.steps[:-1])]
        # Each step undone from the last on, with the leading axes untouched.
        for step, shape in reversed(list(zip(self.steps, shapes_before, strict=False))):
            if step.permutation is None:
                x = x.reshape(*leading, *shape)
            else:
                inverse = sorted(range(len(shape)), key=step.permutation.__getitem__)
                x = x.transpose(*range(offset), *(offset + axis for axis in inverse))
        return x


def _layout_step(equation: TracedEquation, program: TracedProgram) -> LayoutStep | None:
    """An equation as a change of layout; None if it is more than that."""
    if len(equation.value_inputs) != 1 or len(equation.outputs) != 1:
        return None
    before = program.shapes[equation.value_inputs[0]].shape
    after = tuple(program.shapes[equation.outputs[0]].shape)
    if equation.name in UNCHANGED_SHAPE:
        return LayoutStep(None, after)
    if equation.name == "transpose":
        return LayoutStep(tuple(equation.params["permutation"]), after)
    # A broadcast is a reshape only if it repeats nothing.
    if equation.name in RESHAPING and math.prod(before) == math.prod(after):
        return LayoutStep(None, after)
    return None


def is_layout_change(equation: TracedEquation, program: TracedProgram) -> bool:
    """Whether an equation changes nothing but the layout or dtype of its only input."""
    return _layout_step(equation, program) is not None


def find_view_equations(
    program: TracedProgram, producers: Mapping[ValueId, int], value: ValueId
) -> tuple[ValueId, tuple[TracedEquation, ...]] | None:
    """The parameter of which a value is a view, and the changes of layout that lead to the value.

    Args:
        program: the traced model.
        producers: for each value computed from parameters, the position of its equation.
        value: the value as it is used.

    Returns:
        The value of the parameter itself, and the equations from there on; None if the value is
        computed in another way.
    """
    equations = []
    # From the use back to the parameter, as long as every step only changes the layout.
    while value in producers:
        equation = program.equations[producers[value]]
        if not is_layout_change(equation, program):
            return None
        equations.append(equation)
        (value,) = equation.value_inputs
    # The chain may also end at a constant, such as an initial state.
    return (value, tuple(reversed(equations))) if value in program.groups["params"] else None


def find_param_view(
    program: TracedProgram, producers: Mapping[ValueId, int], value: ValueId
) -> tuple[ValueId, ParamView] | None:
    """The parameter of which a value is a view, and how the use sees it.

    The arguments are those of `find_view_equations`, and None has the same meaning.
    """
    found = find_view_equations(program, producers, value)
    if found is None:
        return None
    parameter, equations = found
    steps = [_layout_step(equation, program) for equation in equations]
    shape = tuple(program.shapes[parameter].shape)
    return parameter, ParamView(tuple(step for step in steps if step is not None), shape)
