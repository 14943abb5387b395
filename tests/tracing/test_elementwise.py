"""Parameters that meet data in arithmetic: gradients of single samples equal the calculus."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.core.samples import SampleReductions

X = np.array([[0.5, -1.0, 2.0], [1.5, 3.0, -0.5]])
PARAM = np.array([2.0, -4.0, 0.8])
ADJOINTS = np.array([[1.0, 0.0, -1.0], [0.5, -2.0, 1.0]])

DERIVATIVES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "x + p": (lambda x, p: x + p, lambda x, p: np.ones_like(x)),
    "p + x": (lambda x, p: p + x, lambda x, p: np.ones_like(x)),
    "x - p": (lambda x, p: x - p, lambda x, p: -np.ones_like(x)),
    "p - x": (lambda x, p: p - x, lambda x, p: np.ones_like(x)),
    "x * p": (lambda x, p: x * p, lambda x, p: x),
    "p * x": (lambda x, p: p * x, lambda x, p: x),
    "x / p": (lambda x, p: x / p, lambda x, p: -x / p**2),
    "p / x": (lambda x, p: p / x, lambda x, p: 1 / x),
}
"""A model of data x and a parameter p, and its derivative by p."""


@pytest.mark.parametrize("name", DERIVATIVES)
def test_sample_gradients_equal_the_calculus(name: str) -> None:
    apply, derivative = DERIVATIVES[name]

    class Arithmetic(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return apply(x, self.param("p", nn.initializers.ones, (3,))[None])

    net = gt.from_flax(Arithmetic(), jnp.asarray(X))
    params = net.split({"p": jnp.asarray(PARAM)})
    network_pass = net.forward(
        params, jnp.asarray(X), {}, None, SampleReductions(len(X)), replayed=False
    )
    (stage,) = network_pass.player_tapes(jnp.asarray(ADJOINTS), feedback=True)
    ((player, tape),) = stage.items()
    gradients = ADJOINTS * derivative(X, PARAM[None])
    found = tape.sample_gradients
    like = jax.tree.structure(params[player]).unflatten
    weights, change = np.array([0.5, 2.0]), np.array([1.0, -0.3, 0.7])
    (weighted,) = jax.tree.leaves(found.weighted_sum(jnp.asarray(weights)))
    along = found.directional_derivative(like([jnp.asarray(change)]))
    squares = found.quadratic_form(like([jnp.asarray(change**2)]))
    np.testing.assert_allclose(weighted, weights @ gradients, rtol=1e-14)
    np.testing.assert_allclose(along, gradients @ change, rtol=1e-14)
    np.testing.assert_allclose(squares, gradients**2 @ change**2, rtol=1e-14)
