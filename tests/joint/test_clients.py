"""Programs of other people's kind, before and after their conversion to the joint game."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt

POINTS = jnp.linspace(0.0, 1.0, 41)


@pytest.mark.slow
def test_plain_optax_program() -> None:
    """One loss of the batch, for -u'' = pi^2 sin(pi x), becomes functions of one point."""

    def network(params: Any, x: Any) -> jax.Array:
        return jnp.tanh(params["a"] * x + params["b"]) @ params["c"]

    def second(params: Any, x: Any) -> jax.Array:
        return jax.grad(jax.grad(network, argnums=1), argnums=1)(params, x)

    keys = jax.random.split(jax.random.key(0), 3)
    start = {name: jax.random.normal(key, (16,)) for name, key in zip("abc", keys, strict=True)}
    ends = jnp.array([0.0, 1.0])
    exact = np.sin(np.pi * np.asarray(POINTS))

    def error(params: dict[str, jax.Array]) -> float:
        found = jax.vmap(network, (None, 0))(params, POINTS)
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    # Before.
    def loss(params: dict[str, jax.Array]) -> jax.Array:
        inside = jax.vmap(second, (None, 0))(params, POINTS)
        inside += jnp.pi**2 * jnp.sin(jnp.pi * POINTS)
        boundary = jax.vmap(network, (None, 0))(params, ends)
        return jnp.mean(inside**2) + 10.0 * jnp.mean(boundary**2)

    adam: Any = optax.adam(3e-3)

    def adam_step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = adam.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (before, _), _ = jax.jit(
        lambda params: jax.lax.scan(adam_step, (params, adam.init(params)), None, 2000)
    )(start)

    # After.
    def equation(params: Any, x: Any) -> jax.Array:
        return second(params, x) + jnp.pi**2 * jnp.sin(jnp.pi * x)

    tx: Any = gt.joint(
        {"equation": equation, "boundary": gt.Term(network, weight=10.0)}, damping=1e-6
    )
    batch = {"equation": POINTS, "boundary": ends}
    params: Any = start
    state = tx.init(start)
    step: Any = jax.jit(lambda params, state: tx.update(None, state, params, batch=batch))
    np.testing.assert_allclose(step(params, state)[1].report.loss, 0.5 * loss(params), rtol=1e-6)
    for _ in range(50):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    assert error(before) > 1e-4
    assert error(params) < error(before) / 20


@pytest.mark.slow
def test_jinns_problem() -> None:
    """A dynamic loss of jinns is a residual of one point as it is."""
    pytest.importorskip("jinns")
    jinns: Any = importlib.import_module("jinns")
    eqx: Any = importlib.import_module("equinox")

    class Equation(jinns.loss.ODE):
        def equation(self, t: Any, u: Any, params: Any) -> Any:
            slope = jax.grad(lambda t: u(t, params).squeeze())(t)
            return slope.squeeze() + params.eq_params.rate * u(t, params).squeeze()

    layers = ((eqx.nn.Linear, 1, 12), (jax.nn.tanh,), (eqx.nn.Linear, 12, 1))
    u, nn_params = jinns.nn.PINN_MLP.create(key=jax.random.key(0), eqx_list=layers, eq_type="ODE")
    eq_params = {"rate": jnp.array(2.0)}

    def with_network(nn_params: Any) -> Any:
        return jinns.parameters.Params(nn_params=nn_params, eq_params=eq_params)

    dynamic_loss = Equation()
    tx: Any = gt.joint(
        {
            "equation": lambda p, t: dynamic_loss.equation(t, u, with_network(p)),
            "start": lambda p, t: u(t, with_network(p)) - 1.0,
        },
        damping=1e-8,
    )
    params: Any = jax.tree.map(lambda leaf: leaf.astype(float), nn_params)
    batch = {"equation": POINTS[:, None], "start": jnp.zeros((1, 1))}
    state = tx.init(params)
    step: Any = jax.jit(lambda params, state: tx.update(None, state, params, batch=batch))
    for _ in range(30):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    found = jax.vmap(lambda t: u(t, with_network(params)).squeeze())(POINTS[:, None])
    np.testing.assert_allclose(found, np.exp(-2 * np.asarray(POINTS)), atol=1e-5)
