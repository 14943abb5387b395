"""When each parameter meets data and what it costs, read from the traced program.

Values computed from parameters alone (casts, reshapes, normalised weights) still count as
parameters: a parameter's first use is where such a value first meets data. Calls are followed, and
the body of a scan counts once per iteration.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core

from gtddp_jax.core.types import Tree
from gtddp_jax.tracing.jaxprs import ContainedProgram, called_program, interpret_jaxpr

SourceLeaves: TypeAlias = frozenset[int] | None
"""The leaves of the parameters that a value is computed from; None once it depends on data."""

PRODUCT_PRIMITIVES = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass
class ParameterCost:
    """How one leaf of the parameters is used.

    Attributes:
        first_use: when it first meets data, as a position in the program; -1 if it never does.
        flops: floating-point operations of the products in which it meets data; a multiply-add
            counts as two.
    """

    first_use: int = -1
    flops: float = 0.0


def parameter_costs(function: Callable[[Tree], Any], params: Tree) -> list[ParameterCost]:
    """The cost of every leaf of `params` in `function(params)`, in the order of `jax.tree.leaves`.

    Args:
        function: traced, never run.
        params: arrays, numbers or shapes.
    """
    closed = jax.make_jaxpr(function)(jax.tree.map(_shape_of, params))
    leaf_count = len(jax.tree.leaves(params))
    counter = _CostCounter(leaf_count)
    sources: list[SourceLeaves] = [frozenset([leaf]) for leaf in range(leaf_count)]
    counter.count_program(ContainedProgram(closed.jaxpr, closed.consts), sources, 1.0)
    return counter.costs


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


class _CostCounter:
    """Follows the sources of every value through a program and adds up costs."""

    def __init__(self, leaf_count: int) -> None:
        self.costs = [ParameterCost() for _ in range(leaf_count)]
        self._position = 0

    def count_program(
        self, program: ContainedProgram, inputs: list[SourceLeaves], repeats: float
    ) -> list[SourceLeaves]:
        """Counts a program that runs `repeats` times; returns the sources of its outputs."""
        return interpret_jaxpr(
            program,
            # Constants of a trace are data, unlike the literals in it.
            [None] * len(program.jaxpr.constvars),
            inputs,
            literal_value=lambda literal: frozenset(),
            evaluate=lambda equation, sources: self._count_equation(equation, sources, repeats),
        )

    def _count_equation(
        self, equation: core.JaxprEqn, inputs: list[SourceLeaves], repeats: float
    ) -> list[SourceLeaves]:
        # Programs inside are counted by their own equations, not as one operation.
        program = called_program(equation)
        if program is not None:
            if equation.primitive.name == "scan":
                repeats *= equation.params["length"]
                inputs = _scan_inputs(equation, inputs)
            return self.count_program(program, inputs, repeats)
        self._position += 1
        # Computed from parameters alone, the outputs still count as parameters.
        if all(sources is not None for sources in inputs):
            merged = frozenset().union(*(sources for sources in inputs if sources is not None))
            return [merged] * len(equation.outvars)
        # Here parameters meet data, and the outputs are data from now on.
        for leaf in {leaf for sources in inputs if sources for leaf in sources}:
            cost = self.costs[leaf]
            cost.first_use = self._position if cost.first_use < 0 else cost.first_use
            cost.flops += repeats * _product_flops(equation)
        return [None] * len(equation.outvars)


def _scan_inputs(equation: core.JaxprEqn, inputs: list[SourceLeaves]) -> list[SourceLeaves]:
    """The sources of a scan's inputs as its body sees them.

    A carry that starts from constants counts as data, because it is from the second iteration on.
    """
    first = equation.params["num_consts"]
    last = first + equation.params["num_carry"]
    return [
        None if first <= position < last and sources == frozenset() else sources
        for position, sources in enumerate(inputs)
    ]


def _product_flops(equation: core.JaxprEqn) -> float:
    """Operations of a matrix product or a convolution; 0 for everything else."""
    if equation.primitive.name not in PRODUCT_PRIMITIVES:
        return 0.0
    output: Any = equation.outvars[0].aval
    right: Any = equation.invars[1].aval
    if equation.primitive.name == "dot_general":
        (_, contracted), _ = equation.params["dimension_numbers"]
        return 2.0 * math.prod(output.shape) * math.prod(right.shape[axis] for axis in contracted)
    # Each output entry sums over the kernel entries of one output feature.
    features = right.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(output.shape) * math.prod(right.shape) / features
