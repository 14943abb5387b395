"""A step of the base optimizer that is taken or not, at the price of one that is always taken.

Whether a step is finite is known once its gradient is. A state that is selected after the base has
computed it costs a copy of the old one: the update that follows from the new state needs it before
the selection. Here the state is selected where the base computes it, and the update follows from
the selected one. If the step is taken, both are the same numbers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.safety import all_finite, tree_where, zeros_unless
from gtddp_jax.core.types import Flag, Tree
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.tracing.traced_program import (
    TracedProgram,
    ValueId,
    evaluate_equation,
    read_atom,
    trace_program,
)


class GuardedStep(NamedTuple):
    """A step of the base, or none.

    Attributes:
        ok: whether the step is taken.
        update: the update; zeros if it is not taken.
        state: the base's next state; the present one if it is not taken.
    """

    ok: Flag
    update: Tree
    state: Tree


def take_guarded_step(base: BaseOptimizer, q: Tree, ok: Flag) -> GuardedStep:
    """The step along q, if `ok` holds and the smallest array of the update is finite.

    If q is finite, what spoils an update is a number that its entries share, such as the learning
    rate; one array shows it.

    Args:
        base: the base at its present state.
        q: the gradient.
        ok: whether all that is known before the step is finite.
    """
    program = trace_program(base.compute_update, {}, q=q)
    if program.has_effects:
        # What prints or calls back must do so once.
        update, state = base.compute_update(q)
        ok &= all_finite(update)
        return GuardedStep(ok, zeros_unless(ok, update), tree_where(ok, state, base.state))
    count = len(jax.tree.leaves(q))
    present = jax.tree.leaves(base.state)
    next_values = program.outputs[count:]
    computed = {value for equation in program.equations for value in equation.outputs}
    # Values that are not computed, such as the gradient itself, are selected at the end. So are
    # numbers, such as a count, whose rounding in the rate would depend on the selection.
    old = {
        value: leaf
        for value, leaf in zip(next_values, present, strict=True)
        if isinstance(value, int)
        and value in computed
        and jnp.ndim(leaf)
        and program.shapes[value].dtype == jnp.result_type(leaf)
    }
    update = _run(program, q, {}, ok)[:count]
    ok &= all_finite(min(update, key=jnp.size))
    results = _run(program, q, old, ok)
    state = [
        leaf
        if isinstance(value, int) and old.get(value) is before
        else tree_where(ok, leaf, before)
        for value, leaf, before in zip(next_values, results[count:], present, strict=True)
    ]
    update, state = jax.tree.unflatten(program.structure, [*results[:count], *state])
    return GuardedStep(ok, zeros_unless(ok, update), state)


def _run(program: TracedProgram, q: Tree, old: Mapping[ValueId, Any], ok: Flag) -> list[Any]:
    """The leaves of the result; values of which `old` has an old one are selected at once."""
    values: dict[ValueId, Any] = program.initial_values(q=q)
    for equation in program.equations:
        evaluate_equation(equation, values)
        for value in equation.outputs:
            if value in old:
                values[value] = jnp.where(ok, values[value], old[value])
    return [read_atom(values, atom) for atom in program.outputs]
