"""Where parameters meet data: the uses of parameters, and the values made of parameters alone.

| value         | sample axis | example                                                        |
|---------------|-------------|----------------------------------------------------------------|
| activation    | yes         | outputs of layers                                              |
| of parameters | no          | a parameter, its transpose or cast, `rsqrt(var + eps) * scale` |
| of the batch  | no          | the mean and variance of BatchNorm: constants of the batch     |

A *use* is an equation that reads a value of parameters and writes an activation. The gradient of
a sample's loss by a parameter is the sum over the uses that it takes part in (DESIGN §7).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from gtddp_jax.flax_models.axes import COUPLED, Axis
from gtddp_jax.flax_models.models import Path
from gtddp_jax.flax_models.program import Equation, Program, Value
from gtddp_jax.network.errors import NetworkError


class Use(NamedTuple):
    """An equation in which parameters meet data.

    Attributes:
        index: of the equation in the program.
        operands: which of its inputs are values of parameters.
        leaves: the parameters in them.
        outputs: which of its outputs are activations with a derivative.
    """

    index: int
    operands: tuple[int, ...]
    leaves: frozenset[int]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Traced:
    """A model at one batch size.

    Attributes:
        program: the traced training pass.
        axes: the sample axis of each value.
        size: the number of samples.
        outputs: how many leaves of the result are outputs of the model; the rest is its state.
    """

    program: Program
    axes: tuple[Axis | None, ...]
    size: int
    outputs: int

    def axis(self, value: Value) -> Axis:
        """The sample axis of an activation."""
        axis = self.axes[value]
        assert axis is not None and axis != COUPLED, "not an activation"
        return axis

    def floating(self, value: Value) -> bool:
        """Whether a value has a derivative."""
        return jnp.issubdtype(self.program.shapes[value].dtype, jnp.inexact)


def _reaching(traced: Traced) -> set[Value]:
    """The values that the outputs of the model depend on."""
    program = traced.program
    found = {v for v in program.outputs[: traced.outputs] if isinstance(v, int)}
    for equation in reversed(program.equations):
        if found.intersection(equation.outputs):
            found.update(equation.read)
    return found


def _names(paths: Sequence[Path], leaves: frozenset[int]) -> str:
    return ", ".join("/".join(paths[i]) for i in sorted(leaves))


def _checked(
    traced: Traced, equation: Equation, leaves: frozenset[int], paths: Sequence[Path], needed: set
) -> tuple[int, ...]:
    """The activations that a use writes; raises if samples are not separate in it."""
    who = f"from_flax: {_names(paths, leaves)} in `{equation.name}`"
    outputs = []
    for i, value in enumerate(equation.outputs):
        if value not in needed or not traced.floating(value):
            continue
        if traced.axes[value] is None:
            raise NetworkError(
                f"{who}: the operation also makes a value for the whole batch, of shape "
                f"{traced.program.shapes[value].shape}, on which the outputs depend. Parameters "
                "must act on samples separately."
            )
        outputs.append(i)
    if any(traced.axes[v] == COUPLED for v in (*equation.outputs, *equation.read)):
        raise NetworkError(
            f"{who}: samples are compared with each other (two axes grow with the batch); "
            "parameters must act on samples separately."
        )
    return tuple(outputs)


def find_uses(
    traced: Traced, paths: Sequence[Path]
) -> tuple[tuple[Use, ...], list[frozenset[int]]]:
    """All uses in order, and for each value the parameters that it is made of.

    Args:
        traced: the model; its group "params" holds the parameters.
        paths: names of the parameters.

    Raises:
        NetworkError: samples are mixed where parameters act.
    """
    program, axes = traced.program, traced.axes
    needed = _reaching(traced)
    none: frozenset[int] = frozenset()
    owners = [none] * len(program.shapes)
    for leaf, value in enumerate(program.groups["params"]):
        owners[value] = frozenset({leaf})
    uses = []
    for index, equation in enumerate(program.equations):
        operands = tuple(
            i for i, v in enumerate(equation.inputs) if isinstance(v, int) and owners[v]
        )
        if not operands:
            continue
        leaves = none.union(*(owners[equation.inputs[i]] for i in operands))
        counts = bool(needed.intersection(equation.outputs))
        if any(axes[v] is not None for v in equation.outputs):
            if not counts:
                continue
            outputs = _checked(traced, equation, leaves, paths, needed)
            if outputs:
                uses.append(Use(index, operands, leaves, outputs))
            continue
        if counts and any(axes[v] is not None for v in equation.read):
            raise NetworkError(
                f"from_flax: {_names(paths, leaves)} in `{equation.name}`: one operation reads "
                "parameters and sums over samples; parameters must act on samples separately."
            )
        for value in equation.outputs:
            if traced.floating(value):
                owners[value] = leaves
    return tuple(uses), owners
