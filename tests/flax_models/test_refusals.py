"""Errors for models whose stages change, or whose samples are mixed inside one operation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.network.errors import NetworkError

LOSS = optax.softmax_cross_entropy_with_integer_labels


class BatchDependent(nn.Module):
    """Its layers swap places in large batches."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = nn.Dense(3, name="first"), nn.Dense(3, name="second")
        if len(x) > 6:
            return second(nn.tanh(first(x)))
        return first(nn.tanh(second(x)))


class Summed(nn.Module):
    """A loop over a parameter that returns a sum over the batch, and the samples on request."""

    returns_samples: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("w", nn.initializers.ones, (3,))

        def iteration(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            y = carry[0] * w if self.returns_samples else carry[0]
            return (y, (y * w).sum()), None

        (y, total), _ = jax.lax.scan(iteration, (x, 0.0), None, length=2)
        return y * total


def test_batches_must_have_the_stages_of_the_example() -> None:
    x = jnp.ones((8, 3))
    net = gt.from_flax(BatchDependent(), x[:4])
    tx: Any = gt.sgd(net, LOSS, 0.1)
    params = BatchDependent().init(jax.random.key(0), x)["params"]
    with pytest.raises(NetworkError, match="the model has other players or stages than with the"):
        tx.update(None, tx.init(params), params, batch=(x, jnp.zeros(8, int)))


def test_a_use_must_not_write_a_value_of_the_whole_batch() -> None:
    with pytest.raises(NetworkError, match="also computes a value for the whole batch"):
        gt.from_flax(Summed(returns_samples=True), jnp.ones((4, 3)))


def test_a_use_must_not_sum_over_samples() -> None:
    with pytest.raises(NetworkError, match="one operation reads parameters and sums over samples"):
        gt.from_flax(Summed(returns_samples=False), jnp.ones((4, 3)))
