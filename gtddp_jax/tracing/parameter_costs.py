"""When each parameter meets data and what it costs, read from the traced program.

| value                      | computed from                     | example                        |
|----------------------------|-----------------------------------|--------------------------------|
| of parameters              | parameters alone                  | a cast, a normalised weight    |
| weights that data modified | weights, entry by entry, and data | a masked kernel, a table's row |
| data                       | anything else                     | activations                    |

A parameter's first use is where such a value first becomes part of an activation; its cost is that
of the products in which it does. Programs inside equations are followed:

- the body of a scan counts once per iteration;
- of the branches of a `cond` or `switch`, a parameter counts in the one in which it costs most;
- the body of a `while` counts once, because the number of iterations is unknown;
- the program of a `shard_map` or `pmap` counts once per device.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from gtddp_jax.core.jaxprs import (
    ContainedProgram,
    as_program,
    called_program,
    contained_programs,
    interpret_jaxpr,
)
from gtddp_jax.core.types import Tree
from gtddp_jax.tracing.product_flops import equation_flops, is_matrix, shape_of

INDEXING = ("gather", "dynamic_slice", "take")
"""Primitives by which data picks entries of parameters."""


@dataclasses.dataclass
class ParameterCost:
    """How one leaf of the parameters is used.

    Attributes:
        first_use: when it first meets data, as a position in the program; -1 if it never does.
        flops: floating-point operations of the products in which it meets data; a multiply-add
            counts as two.
        operation: the primitive of the first use, or "".
    """

    first_use: int = -1
    flops: float = 0.0
    operation: str = ""


class ValueSources(NamedTuple):
    """What a value is computed from.

    Attributes:
        leaves: the parameters of which the value is a version; none for activations.
        is_data: whether it depends on data.
        is_repeated: whether it holds copies of parameters, as a bias spread over the batch does.
    """

    leaves: frozenset[int] = frozenset()
    is_data: bool = False
    is_repeated: bool = False


DATA = ValueSources(is_data=True)
CONSTANT = ValueSources()


def parameter_costs(function: Callable[[Tree], Any], params: Tree) -> list[ParameterCost]:
    """The cost of every leaf of `params` in `function(params)`, in the order of `jax.tree.leaves`.

    Args:
        function: traced, never run.
        params: arrays, numbers or shapes.
    """
    closed = jax.make_jaxpr(function)(jax.tree.map(_shape_of, params))
    leaf_count = len(jax.tree.leaves(params))
    counter = _CostCounter(leaf_count)
    sources = [ValueSources(frozenset([leaf])) for leaf in range(leaf_count)]
    outputs = counter.count_program(ContainedProgram(closed.jaxpr, closed.consts), sources, 1.0)
    # A result may itself be weights that data modified.
    counter.record_use([output for output in outputs if output.is_data], "the result")
    return counter.costs


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


class _CostCounter:
    """Follows the sources of every value through a program and adds up costs."""

    def __init__(self, leaf_count: int) -> None:
        self.costs = [ParameterCost() for _ in range(leaf_count)]
        self._position = 0

    def count_program(
        self, program: ContainedProgram, inputs: Sequence[ValueSources], repeats: float
    ) -> list[ValueSources]:
        """Counts a program that runs `repeats` times; returns the sources of its outputs."""
        return interpret_jaxpr(
            program,
            # Constants of a trace are data, unlike the literals in it.
            [DATA] * len(program.jaxpr.constvars),
            inputs,
            literal_value=lambda literal: CONSTANT,
            evaluate=lambda equation, sources: self._count_equation(equation, sources, repeats),
        )

    def record_use(self, values: Sequence[ValueSources], operation: str) -> None:
        """Notes that the parameters of these values become part of an activation here."""
        for leaf in frozenset().union(*(value.leaves for value in values)):
            cost = self.costs[leaf]
            if cost.first_use < 0:
                cost.first_use, cost.operation = self._position, operation

    def _count_equation(
        self, equation: core.JaxprEqn, inputs: list[ValueSources], repeats: float
    ) -> Sequence[ValueSources]:
        # Programs inside are counted by their own equations, not as one operation.
        match equation.primitive.name:
            case "cond":
                return self._count_branches(equation, inputs, repeats)
            case "while":
                return self._count_while(equation, inputs, repeats)
            case "scan":
                return self._count_scan(equation, inputs, repeats)
            case "custom_linear_solve":
                return self._count_linear_solve(equation, inputs, repeats)
            case "shard_map":
                repeats *= _device_count(equation)
        program = called_program(equation)
        if program is not None:
            return self.count_program(program, inputs, repeats)
        return self._count_operation(equation, inputs, repeats)

    def _count_operation(
        self, equation: core.JaxprEqn, inputs: list[ValueSources], repeats: float
    ) -> list[ValueSources]:
        """Counts an equation as one operation."""
        self._position += 1
        if not any(value.is_data for value in inputs):
            return [_of_parameters(equation, inputs)] * len(equation.outvars)
        name = equation.primitive.name
        # Next to the parameters themselves, what data modified is an activation.
        has_weights = any(value.leaves and not value.is_data for value in inputs)
        flops_by_leaf: dict[int, float] = {}
        for operand, value in enumerate(inputs):
            if not (value.is_data and has_weights):
                flops = equation_flops(equation, operand) if value.leaves else 0.0
                flops_by_leaf |= dict.fromkeys(value.leaves, flops)
        for leaf, flops in flops_by_leaf.items():
            self.costs[leaf].flops += repeats * flops
        if name in INDEXING:
            self.record_use(inputs, name)
        outputs = [_of_modified(equation, inputs, variable) for variable in equation.outvars]
        kept = frozenset().union(*(output.leaves for output in outputs))
        self.record_use([ValueSources(value.leaves - kept) for value in inputs], name)
        return outputs

    def _count_branches(
        self, equation: core.JaxprEqn, inputs: list[ValueSources], repeats: float
    ) -> list[ValueSources]:
        """Counts the branches of a `cond` as alternatives that start at the same position."""
        before, start = _copies(self.costs), self._position
        predicate, operands = inputs[0], inputs[1:]
        ends, costs, outputs = [], [], []
        for program in contained_programs(equation):
            self.costs, self._position = _copies(before), start
            outputs.append(self.count_program(program, operands, repeats))
            ends.append(self._position)
            costs.append(self.costs)
        self.costs = [_costliest(of_leaf) for of_leaf in zip(*costs, strict=True)]
        self._position = max(ends)
        control = [DATA] if predicate.is_data else []
        joined = [[*values, *control] for values in zip(*outputs, strict=True)]
        return self._join_all(joined, equation.outvars)

    def _count_while(
        self, equation: core.JaxprEqn, inputs: list[ValueSources], repeats: float
    ) -> list[ValueSources]:
        """Counts the condition and the body of a `while` once."""
        params = equation.params
        condition, body = (as_program(params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
        assert condition is not None and body is not None, "a while has a condition and a body"
        first = params["cond_nconsts"]
        last = first + params["body_nconsts"]
        condition_consts, body_consts, carry = inputs[:first], inputs[first:last], inputs[last:]

        def run(carry: list[ValueSources]) -> list[ValueSources]:
            (proceed,) = self.count_program(condition, [*condition_consts, *carry], repeats)
            after = self.count_program(body, [*body_consts, *carry], repeats)
            # If data decides when to stop, the result depends on it.
            return [value._replace(is_data=True) if proceed.is_data else value for value in after]

        return run(self._settle(run, carry, equation.outvars))

    def _count_scan(
        self, equation: core.JaxprEqn, inputs: list[ValueSources], repeats: float
    ) -> list[ValueSources]:
        """Counts the body of a scan as often as it runs."""
        first = equation.params["num_consts"]
        last = first + equation.params["num_carry"]
        (body,) = contained_programs(equation)

        def run(carry: list[ValueSources]) -> list[ValueSources]:
            values = [*inputs[:first], *carry, *inputs[last:]]
            return self.count_program(body, values, repeats * equation.params["length"])

        carried = equation.outvars[: last - first]
        return run(self._settle(run, inputs[first:last], carried))

    def _count_linear_solve(
        self, equation: core.JaxprEqn, inputs: list[ValueSources], repeats: float
    ) -> list[ValueSources]:
        """Counts the program by which a `custom_linear_solve` finds its result."""
        lengths, programs = equation.params["const_lengths"], equation.params["jaxprs"]
        start = lengths.matvec + lengths.vecmat
        constants = inputs[start : start + lengths.solve]
        right_sides = inputs[sum(lengths) :]
        solve = ContainedProgram(programs.solve.jaxpr, programs.solve.consts)
        return self.count_program(solve, [*constants, *right_sides], repeats)

    def _settle(
        self,
        run: Callable[[list[ValueSources]], list[ValueSources]],
        carry: list[ValueSources],
        variables: Sequence[Any],
    ) -> list[ValueSources]:
        """The sources of a loop's carry in all iterations, found without counting."""
        while True:
            before, start = _copies(self.costs), self._position
            after = run(carry)[: len(carry)]
            self.costs, self._position = before, start
            # What is constant before the first iteration may be data from the second one on.
            joined = self._join_all(
                [list(pair) for pair in zip(carry, after, strict=True)], variables
            )
            if joined == carry:
                return carry
            carry = joined

    def _join_all(
        self, alternatives: Sequence[list[ValueSources]], variables: Sequence[Any]
    ) -> list[ValueSources]:
        """Sources of values that are one of several alternatives."""
        joined = []
        for values, variable in zip(alternatives, variables, strict=True):
            leaves = frozenset().union(*(value.leaves for value in values))
            is_data = any(value.is_data for value in values)
            is_repeated = any(value.is_repeated for value in values)
            value = ValueSources(leaves, is_data, is_repeated)
            if is_data and (is_repeated or not is_matrix(shape_of(variable))):
                self.record_use([value], "control flow")
                # Still repeated, so that a loop's carry settles.
                value = value._replace(leaves=frozenset())
            joined.append(value)
        return joined


def _copies(costs: Sequence[ParameterCost]) -> list[ParameterCost]:
    return [dataclasses.replace(cost) for cost in costs]


def _costliest(costs: Sequence[ParameterCost]) -> ParameterCost:
    """One leaf's cost from its costs in several branches: the first use and the most work."""
    used = [cost for cost in costs if cost.first_use >= 0]
    first = min(used, key=lambda cost: cost.first_use, default=ParameterCost())
    return dataclasses.replace(first, flops=max(cost.flops for cost in costs))


def _device_count(equation: core.JaxprEqn) -> int:
    """The number of devices over which a `shard_map` maps."""
    sizes = equation.params["mesh"].shape
    return math.prod(sizes[axis] for axis in equation.params["newly_manual_axes"])


def _of_parameters(equation: core.JaxprEqn, inputs: Sequence[ValueSources]) -> ValueSources:
    """The sources of what an equation computes from parameters and constants."""
    leaves = frozenset().union(*(value.leaves for value in inputs))
    is_broadcast = equation.primitive.name == "broadcast_in_dim"
    repeats = is_broadcast and math.prod(shape_of(equation.outvars[0])) > math.prod(
        shape_of(equation.invars[0])
    )
    return ValueSources(leaves, False, repeats or any(value.is_repeated for value in inputs))


def _of_modified(
    equation: core.JaxprEqn, inputs: Sequence[ValueSources], variable: Any
) -> ValueSources:
    """The sources of what an equation computes from parameters and data.

    Weights remain weights if data only scales, shifts or picks their entries. The output then is a
    matrix, and not larger than the weights unless entries were picked.
    """
    name, shape = equation.primitive.name, shape_of(variable)
    kept: frozenset[int] = frozenset()
    for operand, value in enumerate(inputs):
        fits = math.prod(shape) <= math.prod(shape_of(equation.invars[operand]))
        is_picked = name in INDEXING and operand == 0
        is_version = value.leaves and not value.is_repeated and is_matrix(shape)
        if is_version and (fits or is_picked) and not equation_flops(equation, operand):
            kept |= value.leaves
    return ValueSources(kept, True)
