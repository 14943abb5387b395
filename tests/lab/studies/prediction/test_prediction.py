"""The study of predictions: influences against their definition, prescribed correlations."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_lab.studies.figures.figure_trainer import CROSS_ENTROPY
from gtddp_lab.studies.prediction.course import train_implicit
from gtddp_lab.studies.prediction.degraded import DegradedProduct, degrade_influence
from gtddp_lab.studies.prediction.influence import player_set_influences, player_sets
from gtddp_lab.studies.prediction.prediction_study import MlpShape
from tests.implicit import models

BASE = optax.adam(0.1)
pytestmark = pytest.mark.usefixtures("hostile")


def data(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 5)), rng.integers(0, 3, count)


def network() -> gt.Network:
    dense = functools.partial(nn.Dense, param_dtype=jnp.float64)
    block = gt.Residual([nn.LayerNorm(param_dtype=jnp.float64), dense(4), nn.tanh, dense(4)])
    return gt.Network([dense(4), block, dense(3)])


def test_influences_are_their_definition() -> None:
    """Rows of the Jacobian of the losses times the base's response, player by player."""
    net, (x, y) = network(), map(jnp.asarray, data(6))
    params = net.init(jax.random.key(0), x[:1])
    tx: Any = gt.implicit(
        BASE, lambda p, x: (net.apply(p, x), {}), CROSS_ENTROPY, has_aux=True, aux={}
    )
    step: Any = jax.jit(lambda p: tx.update(None, tx.init(p), p, batch=(x, y)))
    _, state = step(params)  # so that Adam has momentum
    sets = player_sets(net)
    assert sets["last block"] == ("Dense_1", "Dense_2", "Dense_3")
    assert sets["spread"] == ("Dense_2", "Dense_3")
    found = jax.jit(lambda p, s: player_set_influences(net, BASE, sets, p, s, (x, y)))(
        params, state
    )

    rows: Any = jax.jit(jax.jacobian(lambda p: CROSS_ENTROPY(net.apply(p, x), y)))(params)
    q = jax.tree.map(lambda row: row.mean(0), rows)
    zero = jax.tree.map(jnp.zeros_like, q)
    steps: Any = [BASE.update(g, state.base, params)[0] for g in (q, zero)]
    u, u0 = steps
    for name, players in {**sets, "all": tuple(params)}.items():
        want = np.zeros(6)
        for player in players:
            leaves = zip(*map(jax.tree.leaves, (rows[player], u[player], u0[player])), strict=True)
            want -= sum(np.tensordot(r, a - b, axes=a.ndim) for r, a, b in leaves)
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(found[name], want, rtol=1e-11)


def test_mixing_has_the_prescribed_correlation() -> None:
    n = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, 200_000))
    for c in (1.0, 0.7, 0.25):
        m = degrade_influence(n, c)
        assert np.corrcoef(n, m)[0, 1] == pytest.approx(c, abs=0.01)
        assert np.polyfit(m, n, 1)[0] == pytest.approx(1.0, abs=0.03)  # what kappa ensures
        assert float(m.mean()) == pytest.approx(float(n.mean()), rel=1e-12)
    np.testing.assert_allclose(degrade_influence(n, 0.0), n.mean())


def test_a_perfect_prediction_is_the_product() -> None:
    p = models.classification(batch=8)
    found = {}
    for name, model in {
        "product": gt.weighting.Product(),
        "1": DegradedProduct(1.0),
        "0.5": DegradedProduct(0.5),
    }.items():
        options: Any = {"weighting": model}
        state = models.implicit(BASE, p.apply_fn, p.loss, **options).init(p.params)
        look = models.implicit_weights(BASE, p.apply_fn, p.loss, **options)
        found[name] = look(state, p.params, (p.x, p.y))
    np.testing.assert_allclose(found["1"], found["product"], rtol=1e-12)
    assert np.abs(found["0.5"] - found["product"]).max() > 0.05


def test_training_by_the_base_is_plain_optax() -> None:
    net, (x, y) = network(), data(8)
    *_, last = train_implicit(net, BASE, None, (x, y), 4, 2, 2)

    @jax.jit
    def step(params: Any, state: Any, rows: jax.Array) -> tuple[Any, Any]:
        q = jax.grad(lambda p: CROSS_ENTROPY(net.apply(p, x[rows]), y[rows]).mean())(params)
        updates, state = BASE.update(q, state, params)
        return optax.apply_updates(params, updates), state

    x, y = jnp.asarray(x), jnp.asarray(y)
    for seed in range(2):
        params = net.init(jax.random.key(seed), x[:1])
        state, rng = BASE.init(params), np.random.default_rng(seed)
        for _ in range(2):
            for rows in rng.permutation(8).reshape(2, 4):
                params, state = step(params, state, rows)
        of_seed = jax.tree.map(lambda p, s=seed: p[s], last.params)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), of_seed, params)


def test_shapes_build_the_networks_that_they_describe() -> None:
    net = MlpShape(blocks=2, width=8, norm="batch").network
    assert net.has_batch_stats
    assert len(player_sets(net)["spread"]) == 2
