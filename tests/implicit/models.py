"""A small model in plain functions, with float64 parameters and one batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from tests.implicit.dense import Problem

Tree = Any
implicit: Any = gt.implicit
implicit_weights: Any = gt.implicit_weights
"""Typed Any, because optax's types allow neither state attributes nor updates of None."""

WEIGHTINGS = ("sketch", "full")
"""Sample weightings for batches of any size, by name."""


def mlp(params: Tree, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"][None])
    return h @ params["out"]["w"] + params["out"]["b"][None]


def mlp_params(sizes: tuple[int, int, int] = (3, 4, 3), seed: int = 0) -> Tree:
    rng = np.random.default_rng(seed)
    inputs, hidden, outputs = sizes

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))

    return {
        "hidden": {"w": draw(inputs, hidden), "b": draw(hidden)},
        "out": {"w": draw(hidden, outputs), "b": draw(outputs)},
    }


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def classification(batch: int = 5, seed: int = 0) -> Problem:
    """`mlp` with integer labels."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(2 * rng.normal(size=(batch, 3)))
    y = jnp.asarray(rng.integers(0, 3, size=batch))
    return Problem(mlp, cross_entropy, mlp_params(seed=seed), x, y)


def linear(outputs: int = 1, batch: int = 6, *, loss: Any, seed: int = 0) -> Problem:
    """A linear model without bias, with real targets."""
    rng = np.random.default_rng(seed)
    params = jnp.asarray(rng.normal(size=(4, outputs)))
    x, y = jnp.asarray(rng.normal(size=(batch, 4))), jnp.asarray(rng.normal(size=(batch, outputs)))
    return Problem(lambda w, x: x @ w, loss, params, x, y)


def after(p: Problem, tx: optax.GradientTransformation, steps: int) -> tuple[Tree, Any]:
    """Parameters and state of a plain optimizer after some steps on the mean loss."""

    @jax.jit
    def step(params: Tree, state: Any) -> tuple[Tree, Any]:
        gradient = jax.grad(lambda u: p.loss(p.apply_fn(u, p.x), p.y).mean())(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = p.params, tx.init(p.params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state
