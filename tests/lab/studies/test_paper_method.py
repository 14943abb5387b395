"""The published game as a training method."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_lab.studies.paper.paper_method import PAPER_SETTINGS, paper_method
from gtddp_lab.training.settings import TrainSettings

RATE = 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "curvature"),
    [("rmsprop", gt.curvature.RMSProp(RATE)), ("sgd", gt.curvature.SGD(RATE, 0.9))],
)
def test_the_step_is_that_of_paper_gtddp(base: str, curvature: gt.curvature.Curvature) -> None:
    net = gt.Network([nn.Dense(4), nn.tanh, nn.Dense(3)])
    loss = optax.softmax_cross_entropy_with_integer_labels
    x, y = jnp.linspace(-1, 1, 10).reshape(5, 2), jnp.array([0, 1, 2, 0, 1])
    params = net.init(jax.random.key(0), x)
    method = paper_method(base)
    settings = TrainSettings(RATE, **PAPER_SETTINGS)
    games: list[Any] = [
        method.build(net, loss, settings, RATE, {}),
        gt.paper_gtddp(net, loss, curvature),
    ]
    got, want = (
        ravel_pytree(tx.update(None, tx.init(params), params, batch=(x, y))[0])[0] for tx in games
    )
    np.testing.assert_array_equal(got, want)
    assert method.name == f"paper-{base}"
