"""Values that are a parameter in another shape: transposes, reshapes, casts.

What such a value is multiplied by, seen through its view, belongs to the parameter itself: sums
over samples are computed where the parameter is used and laid out as the parameter afterwards.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.flax_models.program import Equation, Program, Value

SHAPED = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim"}
SAME = {"convert_element_type", "copy", "copy_p", "reduce_precision"}


@dataclasses.dataclass(frozen=True)
class View:
    """How a parameter is laid out where it is used.

    Attributes:
        steps: `(permutation or None, shape afterwards)`, from the parameter on.
        shape: of the parameter.
    """

    steps: tuple[tuple[tuple[int, ...] | None, tuple[int, ...]], ...]
    shape: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether the numbers keep their order."""
        return all(permutation is None for permutation, _ in self.steps)

    def seen(self, x: jax.Array) -> jax.Array:
        """A parameter, or what has its shape, as it is used; a number stays a number."""
        if jnp.ndim(x) == 0 and self.shape:
            return x
        for permutation, shape in self.steps:
            x = x.reshape(shape) if permutation is None else x.transpose(permutation)
        return x

    def restored(self, x: jax.Array) -> jax.Array:
        """The inverse of `seen`, for arrays `[..., *used shape]`."""
        used = self.steps[-1][1] if self.steps else self.shape
        lead = x.shape[: x.ndim - len(used)]
        n = len(lead)
        shapes = [self.shape, *(shape for _, shape in self.steps)]
        for (permutation, _), shape in reversed(list(zip(self.steps, shapes, strict=False))):
            if permutation is None:
                x = x.reshape(*lead, *shape)
            else:
                inverse = sorted(range(len(permutation)), key=permutation.__getitem__)
                x = x.transpose(*range(n), *(n + i for i in inverse))
        return x


def _step(equation: Equation, program: Program) -> Any:
    before = program.shapes[equation.read[0]].shape
    after = tuple(program.shapes[equation.outputs[0]].shape)
    if equation.name in SAME:
        return None, after
    if equation.name == "transpose":
        return tuple(equation.params["permutation"]), after
    if equation.name in SHAPED and math.prod(before) == math.prod(after):
        return None, after
    return None


def view_of(program: Program, makers: dict[Value, int], value: Value) -> tuple[Value, View] | None:
    """The parameter of which a value is a view, or None if there is more to it.

    Args:
        program: the traced model.
        makers: for each value made of parameters, the equation that makes it.
        value: the value as it is used.
    """
    steps = []
    while value in makers:
        equation = program.equations[makers[value]]
        step = _step(equation, program) if len(equation.read) == 1 else None
        if step is None or len(equation.outputs) != 1:
            return None
        steps.append(step)
        (value,) = equation.read
    if value not in program.groups["params"]:
        return None
    return value, View(tuple(reversed(steps)), tuple(program.shapes[value].shape))
