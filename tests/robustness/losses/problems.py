"""One small batch, two ways to play a game on it, and the comparison of two games."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

Tree = Any
implicit: Any = gt.implicit
gtddp: Any = gt.gtddp
"""Typed Any, because optax's types allow neither state attributes nor updates of None."""

BATCH = 6
BASE = optax.sgd(0.3, momentum=0.9)
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


WEIGHTINGS = ("sketch", "full")


def inputs(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Inputs [6, 3] and labels [6]."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(2 * rng.normal(size=(BATCH, 3))), jnp.asarray(rng.integers(0, 4, BATCH))


def mlp_params(outputs: int = 4) -> Tree:
    rng = np.random.default_rng(1)
    sizes = {"hidden": (3, 5), "out": (5, outputs)}
    return {name: jnp.asarray(rng.normal(size=size)) for name, size in sizes.items()}


def mlp(params: Tree, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


def network(*after: Any, width: int = 4) -> gt.Network:
    return gt.Network([nn.Dense(5), jnp.tanh, nn.Dense(width), *after])


def network_params(net: Any, x: jax.Array) -> Tree:
    """Parameters in float64."""
    params = net.init(jax.random.key(0), x)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def run(tx: Any, params: Tree, batch: Any, steps: int = 2) -> tuple[Tree, Any]:
    """Parameters and state after some steps."""

    @jax.jit
    def step(params: Tree, state: Any) -> tuple[Tree, Any]:
        updates, state = tx.update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def trace(tx: Any, params: Tree, batch: Any) -> None:
    """Traces a step without running it."""
    jax.eval_shape(lambda: tx.update(None, tx.init(params), params, batch=batch))


def assert_same_game(
    first: tuple[Tree, Any], second: tuple[Tree, Any], *, tolerance: float = 1e-11
) -> None:
    """Both games moved the parameters alike, and their weights were no constants."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        first[0],
        second[0],
    )
    report = first[1].report
    assert report.sample_weight_max - report.sample_weight_min > 1e-2
    assert not report.skipped and not report.samples_coupled
