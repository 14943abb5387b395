"""Workarounds for the XLA compiler change programs, not numbers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core.xla import materialize


def test_finished_numbers_are_the_same() -> None:
    x = jnp.array([0.0, -0.0, 1.5, jnp.inf, -jnp.inf, jnp.nan])
    for dtype in (jnp.float64, jnp.bfloat16):
        tree: Any = materialize({"x": x.astype(dtype)})
        got = tree["x"]
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.astype(float), x)  # all of them are exact in either


@pytest.mark.slow
def test_layers_take_turns_at_laying_out_patches(float32: None) -> None:
    """A further layer costs the memory of what it keeps, not of its nine times larger patches."""

    def pool(x: jax.Array) -> jax.Array:
        return x.mean((1, 2))

    def temporary(blocks: int) -> int:
        layers: list[Any] = [nn.Conv(8, (3, 3))]
        for _ in range(blocks):
            layers += [gt.Residual([nn.Conv(8, (3, 3))]), nn.relu]
        layers += [pool, nn.Dense(3)]
        net, x, y = gt.Network(layers), jnp.ones((32, 10, 10, 1)), jnp.zeros(32, int)
        params = net.init(jax.random.key(0), x[:1])
        loss = optax.softmax_cross_entropy_with_integer_labels
        tx: Any = gt.sgd(net, loss, 0.1)
        step = jax.jit(lambda p, s: tx.update(None, s, p, batch=(x, y)))
        plan: Any = step.lower(params, tx.init(params)).compile().memory_analysis()
        return plan.temp_size_in_bytes

    patches = 32 * 10 * 10 * 9 * 8 * 4
    assert temporary(2) - temporary(1) < patches
