"""Batch statistics and dropout with a function of losses in the sequential game."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.losses.problems import RATE, ROWS, cross_entropy

Tree = Any


class Normalized(nn.Module):
    """Batch normalization and dropout between two dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = nn.Dense(4, param_dtype=np.float64)(x)
        h = nn.BatchNorm(use_running_average=not train, dtype=np.float64, param_dtype=np.float64)(h)
        h = nn.Dropout(0.5, deterministic=not train)(jnp.tanh(h))
        return nn.Dense(3, param_dtype=np.float64)(h)


def stage_list() -> tuple[Any, Tree, Tree]:
    layers = [
        nn.Dense(4, param_dtype=np.float64),
        nn.BatchNorm(dtype=np.float64, param_dtype=np.float64),
        jnp.tanh,
        nn.Dropout(0.5),
        nn.Dense(3, param_dtype=np.float64),
    ]
    net = gt.Network(layers)
    variables: Any = net.init_variables(jax.random.key(0), ROWS.x)
    return net, variables["params"], variables["batch_stats"]


def flax_model() -> tuple[Any, Tree, Tree]:
    variables: Any = Normalized().init(jax.random.key(0), ROWS.x, train=False)
    net = gt.from_flax(
        Normalized(), ROWS.x, apply_kwargs={"train": True}, eval_kwargs={"train": False}
    )
    return net, variables["params"], variables["batch_stats"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [stage_list, flax_model])
def test_equals_the_short_form(make: Any) -> None:
    net, params, batch_stats = make()
    keys = {"dropout": jax.random.key(1)}

    def losses(params: Tree, batch_stats: Tree) -> gt.Losses:
        logits, after = net.apply(params, ROWS.x, batch_stats=batch_stats, train=True, rngs=keys)
        return gt.Losses(logits, lambda logits: cross_entropy(logits, ROWS.y), aux=after)

    tx = gt.sgd(net, None, RATE)
    step = gt.make_step(tx, losses, donate=False)
    new_params, _, output = step(params, tx.init(params), batch_stats)
    short: Any = gt.sgd(net, cross_entropy, RATE, batch_stats=batch_stats)

    @jax.jit
    def update(params: Tree) -> tuple[Tree, Any]:
        return short.update(None, short.init(params), params, batch=(ROWS.x, ROWS.y), rngs=keys)

    updates, state = update(params)
    chex.assert_trees_all_close(new_params, optax.apply_updates(params, updates), rtol=1e-12)
    # Flax keeps running statistics in float32.
    chex.assert_trees_all_close(output.aux, state.batch_stats, rtol=1e-6)
