"""Fully connected tanh networks of one point, with their derivatives by the point.

| symbol | meaning                                    | shape   |
|--------|--------------------------------------------|---------|
| x      | the point                                  | [D]     |
| u      | the network's value, its only output       | []      |
| w      | weights of the second derivatives          | [D]     |
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class TanhLayer(NamedTuple):
    """Parameters of one layer.

    Attributes:
        kernel: [outputs, inputs].
        bias: [outputs].
    """

    kernel: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"]


TanhNetwork = list[TanhLayer]


class PointDerivatives(NamedTuple):
    """Value and derivatives of the network at one point.

    Attributes:
        value: u.
        gradient: du/dx_i [D].
        second: `sum_i w_i d2u/dx_i2`.
    """

    value: Float[Array, ""]
    gradient: Float[Array, " D"]
    second: Float[Array, ""]


def init_tanh_network(key: jax.Array, sizes: Sequence[int]) -> TanhNetwork:
    """Parameters with uniform kernels and biases in +-1/sqrt(inputs), PyTorch's default."""
    layers = []
    for layer_key, inputs, outputs in zip(
        jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True
    ):
        kernel_key, bias_key = jax.random.split(layer_key)
        bound = inputs**-0.5
        layers.append(
            TanhLayer(
                jax.random.uniform(kernel_key, (outputs, inputs), float, -bound, bound),
                jax.random.uniform(bias_key, (outputs,), float, -bound, bound),
            )
        )
    return layers


def apply_tanh_network(params: TanhNetwork, x: Float[Array, " D"]) -> Float[Array, " outputs"]:
    """All outputs at one point."""
    for layer in params[:-1]:
        x = jnp.tanh(layer.kernel @ x + layer.bias)
    return params[-1].kernel @ x + params[-1].bias


def network_value(params: TanhNetwork, x: Float[Array, " D"]) -> Float[Array, ""]:
    """The only output at one point."""
    return apply_tanh_network(params, x)[0]


def point_derivatives(
    params: TanhNetwork, x: Float[Array, " D"], second_weights: Float[Array, " D"]
) -> PointDerivatives:
    """Propagates value, gradient and weighted second derivative through the layers together.

    That takes D + 2 products with each kernel. Nested automatic differentiation of each coordinate
    takes about three times as many.
    """
    value, gradient, second = x, jnp.eye(x.size), jnp.zeros(x.size)
    for number, layer in enumerate(params):
        value = layer.kernel @ value + layer.bias
        gradient = layer.kernel @ gradient
        second = layer.kernel @ second
        if number < len(params) - 1:
            value = jnp.tanh(value)
            slope = 1 - value**2
            second = slope * (second - 2 * value * (gradient**2 @ second_weights))
            gradient = slope[:, None] * gradient
    return PointDerivatives(value[0], gradient[0], second[0])
