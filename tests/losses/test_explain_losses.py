"""The table of a function of losses."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


class Model(nn.Module):
    """A convolution and a dense layer before a normalization, a dense layer after it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.WeightNorm(nn.Dense(64))(nn.Conv(32, (3, 3))(x))
        x = nn.BatchNorm(use_running_average=False)(x)
        return nn.Dense(10)(nn.relu(x).mean((1, 2)))


def losses(params: Any, batch_stats: Any, x: jax.Array) -> gt.Losses:
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, updated = Model().apply(variables, x, mutable=["batch_stats"])
    labels = jnp.zeros(len(x), int)
    return gt.Losses(outputs, lambda o: CROSS_ENTROPY(o, labels), aux=updated)


def test_parameters_that_take_part() -> None:
    x = jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(Model().init, jax.random.key(0), x)
    params = variables["params"]
    text = gt.explain_losses(losses, params, variables["batch_stats"], x)
    rows = {line.split()[0]: line.split()[-4:] for line in text.splitlines()[2:]}
    assert len(rows) == len(jax.tree.leaves(params))
    # Weight normalization computes the kernel of its layer from two arrays.
    assert rows["['WeightNorm_0']['Dense_0/kernel/scale']"][-1] == "none"
    assert rows["['Dense_0']['kernel']"][-1] == "none"
    assert rows["['Dense_1']['kernel']"][-1] == "all"
    assert "4 of 32 along axis 3" in text
    taking_part = sum(row[-1] != "none" for row in rows.values())
    assert text.startswith(f"{taking_part} of {len(rows)} arrays take part, ")
    assert "a second pass computes" in text.splitlines()[0]


def test_a_larger_share_takes_more_units() -> None:
    def dense(params: jax.Array, x: jax.Array) -> gt.Losses:
        return gt.Losses(x @ params, lambda o: jnp.square(o).sum(-1))

    arguments = (jnp.ones((128, 32)), jnp.ones((64, 128)))
    default = gt.explain_losses(dense, *arguments)
    half = gt.explain_losses(dense, *arguments, weighting=gt.weighting.Sketch(0.5))
    assert "8 of 128 along axis 0" in default
    assert "64 of 128 along axis 0" in half
    assert "adjoints are computed once" in half


def test_a_single_sample_cannot_be_read() -> None:
    def dense(params: jax.Array, x: jax.Array) -> gt.Losses:
        return gt.Losses(x @ params, lambda o: jnp.square(o).sum(-1))

    text = gt.explain_losses(dense, jnp.ones((8, 3)), jnp.ones((1, 8)))
    assert text.startswith("The whole network predicts")


def test_what_losses_returned_is_checked() -> None:
    with pytest.raises(ValueError, match="Losses"):
        gt.explain_losses(lambda params: params.sum(), jnp.ones(3))
