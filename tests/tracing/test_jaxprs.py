"""Which programs an equation contains, and which functions are elementwise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from gtddp_jax.core import jaxprs

X = jnp.ones(3)
WITH_JVP_RULE: Any = jax.custom_jvp(jnp.sin)
WITH_JVP_RULE.defjvp(lambda primals, tangents: jax.jvp(jnp.sin, primals, tangents))

CALLS: dict[str, tuple[Callable[[jax.Array], Any], bool]] = {
    "jit": (jax.jit(jnp.sin), True),
    "checkpoint": (jax.checkpoint(jnp.sin), True),
    "custom_jvp": (WITH_JVP_RULE, False),
    "scan": (lambda x: jax.lax.scan(lambda carry, _: (jnp.sin(carry), None), x, length=2), False),
}
"""Functions that are a single equation, and whether the equation may be replaced by its program."""


def first_equation(function: Callable[..., Any], *args: Any) -> Any:
    return jax.make_jaxpr(function)(*args).jaxpr.eqns[0]


@pytest.mark.parametrize("name", CALLS)
def test_called_programs(name: str) -> None:
    function, inlinable = CALLS[name]
    equation = first_equation(function, X)
    program = jaxprs.called_program(equation)
    assert program is not None
    assert "sin" in {inner.primitive.name for inner in jaxprs.all_equations(program.jaxpr)}
    assert (jaxprs.inlinable_program(equation) is not None) == inlinable


def test_a_loop_contains_its_condition_and_body_but_calls_neither() -> None:
    equation = first_equation(
        lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: jnp.sin(x) + 1, x), X
    )
    assert len(jaxprs.contained_programs(equation)) == 2
    assert jaxprs.called_program(equation) is None


def test_branches_are_contained_programs() -> None:
    def branches(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)

    closed = jax.make_jaxpr(branches)(X)
    names = {equation.primitive.name for equation in jaxprs.all_equations(closed.jaxpr)}
    assert {"sin", "cos"} <= names
