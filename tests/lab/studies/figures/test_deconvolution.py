"""Projection to image space: transposes, and a ReLU on the signal."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_lab.studies.figures.deconvolution import project_to_image

pytestmark = pytest.mark.usefixtures("hostile")


def pooled(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2))


def setting(layers: list) -> tuple[gt.Network, dict, jax.Array, jax.Array]:
    net, rng = gt.Network(layers), np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 1)))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), net.init(jax.random.key(3), x))
    signal = jnp.asarray(rng.normal(size=net.apply(params, x).shape))
    return net, params, x, signal


@pytest.mark.slow
def test_relu_is_that_of_zeiler_and_fergus() -> None:
    """The signal is rectified, whatever the sign of the input was."""
    net, params, x, signal = setting([nn.Conv(2, (3, 3)), nn.relu, pooled])
    got = project_to_image(net.stages, params, x, (signal,))
    before: Any = nn.Conv(2, (3, 3)).apply({"params": params["Conv_0"]}, x)
    (unpooled,) = jax.vjp(pooled, nn.relu(before))[1](signal)
    kernel = params["Conv_0"]["kernel"]
    want = jax.lax.conv_general_dilated(
        nn.relu(unpooled),
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    (plain,) = jax.vjp(lambda x: net.apply(params, x), x)[1](signal)
    assert jnp.abs(got - plain).max() > 1e-2


@pytest.mark.slow
def test_without_relu_it_is_backpropagation() -> None:
    """From trunk and shortcut inside a block, through the switches of a maximum pooling."""
    body = [nn.Conv(3, (3, 3)), jnp.tanh, nn.Conv(2, (3, 3))]
    net, params, x, _ = setting([nn.Conv(2, (3, 3)), pooled, gt.Residual(body)])
    before = net.stages[:2]

    def tape(x: jax.Array) -> tuple[jax.Array, ...]:
        states: tuple[jax.Array, ...] = (x,)
        for stage in before:
            states = stage(params, states)
        return states

    states, pullback = jax.vjp(tape, x)
    assert len(states) == 2
    signals = tuple(jnp.sin(1 + jnp.arange(s.size)).reshape(s.shape) for s in states)
    got = project_to_image(before, params, x, signals)
    np.testing.assert_allclose(got, pullback(signals)[0], rtol=1e-12, atol=1e-15)
