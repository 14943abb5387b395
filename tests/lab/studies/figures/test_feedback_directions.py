"""Feedback gains of Fig. 6c: the collapse against a singular value decomposition, in float64."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_lab.networks import flatten
from gtddp_lab.studies.figures import figure6c
from gtddp_lab.studies.figures.figure_trainer import CROSS_ENTROPY


@pytest.mark.slow
@pytest.mark.usefixtures("hostile")
def test_leading_directions_are_those_of_the_gains() -> None:
    body = [nn.Conv(2, (2, 2)), jnp.tanh, nn.Conv(1, (2, 2))]
    layers = [nn.Conv(1, (2, 2)), jnp.tanh, gt.Residual(body), flatten, nn.Dense(3)]
    net, rng = gt.Network(layers), np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(2, 2, 2, 1))), jnp.asarray([0, 2])
    params = net.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)

    @jax.jit
    def both(params: Any) -> Any:
        def gains(hessian: str) -> list[jax.Array]:
            return gt.reference.ddp_step(
                net.stages,
                params,
                x,
                lambda outputs: CROSS_ENTROPY(outputs, y),
                gt.reference.HESSIANS[hessian],
                gt.reference.preconditioned_gains(
                    lambda t, q: figure6c.FEEDBACK_RATE * jnp.eye(q.size)
                ),
            ).feedback_gains

        return (
            gains("gradient"),
            gains("exact"),
            figure6c.leading_directions(net.stages, params, x, y),
            figure6c.compare_with_exact(net.stages, params, x, y),
        )

    rank_one, exact, directions, compared = both(params)
    assert list(compared) == ["Conv_1", "Conv_2"]
    for name, (cosines, shares) in compared.items():
        t = figure6c.convolution_stages(net.stages)[name]
        for i in range(2):
            _, values, rows = np.linalg.svd(rank_one[t][i])
            assert values[1] < 1e-12 * values[0]
            found = np.concatenate([np.ravel(part[i]) for part in directions[t]])
            assert found.size == (4 if name == "Conv_1" else 8 + 4)  # trunk and shortcut
            assert abs(abs(found @ rows[0]) - 1) < 1e-9
            _, values, rows = np.linalg.svd(exact[t][i])
            assert abs(cosines[i] - abs(found @ rows[0])) < 1e-9
            assert abs(shares[i] - values[0] ** 2 / (values**2).sum()) < 1e-9
            assert 0.1 < cosines[i] < 0.9999 and values[1] > 1e-3 * values[0]


def test_resemblance_is_a_correlation_with_differences_of_means() -> None:
    x = np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]])
    y = np.array([0, 0, 1])
    images = np.array([[-1.0, 3, 0], [1, -3, 0], [1, 1, 1]])
    found = figure6c.class_resemblance(images, x, y, np.array([[0, 1], [0, 1], [0, 1]]))
    np.testing.assert_allclose(found[:2], [1, -1], atol=1e-12)
    assert found[2] == 0
