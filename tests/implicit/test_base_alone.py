"""At strength 0, and for linear losses, `implicit` equals its base bit for bit (float32, jit).

This holds for the updates. If XLA compiles them together with `optax.apply_updates`, it may round a
product and a sum once (one machine instruction) in one program and twice in the other.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.compiler_flags import USER_OPTIONS
from tests.default_run import quick_cases
from tests.implicit import models
from tests.implicit.models import implicit

Tree = Any
STEPS = 20
as_users: Any = functools.partial(jax.jit, compiler_options=USER_OPTIONS)
BASES = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "nesterov": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.03),
    "adamw": optax.adamw(0.03, weight_decay=0.1),
    "rmsprop": optax.rmsprop(0.01, momentum=0.5),
    "lion": optax.lion(0.01, weight_decay=0.1),
    "adagrad": optax.adagrad(0.1),
    "lamb": optax.lamb(0.03),
    "clip and schedule": optax.chain(
        optax.clip_by_global_norm(0.3),
        optax.scale_by_adam(),
        optax.scale_by_schedule(optax.cosine_decay_schedule(-0.1, STEPS)),
    ),
    "muon": optax.contrib.muon(0.05),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 3),
}


def batches() -> list[tuple[jax.Array, jax.Array]]:
    rng = np.random.default_rng(0)
    return [
        (jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), jnp.asarray(rng.integers(0, 3, 6)))
        for _ in range(STEPS)
    ]


def start() -> Tree:
    return jax.tree.map(lambda u: u.astype(jnp.float32), models.mlp_params())


@pytest.mark.parametrize("name", quick_cases(BASES))
def test_strength_zero_is_the_base_bit_for_bit(name: str, float32: None) -> None:
    base = BASES[name]
    tx = implicit(base, models.mlp, models.cross_entropy, strength=0.0)

    @as_users
    def plain(params: Tree, state: Any, batch: Any) -> tuple[Tree, Any, jax.Array]:
        def mean_loss(params: Tree) -> jax.Array:
            return models.cross_entropy(models.mlp(params, batch[0]), batch[1]).mean()

        value, gradient = jax.value_and_grad(mean_loss)(params)
        return *base.update(gradient, state, params), value

    @as_users
    def game(params: Tree, state: Any, batch: Any) -> tuple[Tree, Any]:
        return tx.update(None, state, params, batch=batch)

    params, state = start(), base.init(start())
    ours: Any = start()
    our_state = tx.init(ours)
    for batch in batches():
        updates, state, value = plain(params, state, batch)
        params = optax.apply_updates(params, updates)
        updates, our_state = game(ours, our_state, batch)
        ours = optax.apply_updates(ours, updates)
        assert our_state.report.loss == pytest.approx(float(value), rel=1e-6)
    assert not np.allclose(ours["out"]["w"], start()["out"]["w"])
    for got, want in zip(
        jax.tree.leaves((ours, our_state.base)), jax.tree.leaves((params, state)), strict=True
    ):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    report = our_state.report
    assert (report.sample_weight_min, report.sample_weight_mean, report.sample_weight_max) == (
        1,
        1,
        1,
    )
    assert not report.skipped and our_state.step == STEPS


@pytest.mark.parametrize("weighting", quick_cases(models.WEIGHTINGS))
def test_zero_learning_rate_gives_plain_weights(weighting: str) -> None:
    """Nothing moves, so every weight is psi'(0) = 1."""
    p = models.classification()
    tx = implicit(optax.sgd(0.0, momentum=0.9), p.apply_fn, p.loss, weighting=weighting)
    state = tx.init(p.params)

    @jax.jit
    def step(params: Tree, state: Any) -> tuple[Tree, Any]:
        return tx.update(None, state, params, batch=(p.x, p.y))

    for _ in range(3):
        updates, state = step(p.params, state)
        assert not np.any(updates["out"]["w"])
        np.testing.assert_allclose(
            [state.report.sample_weight_min, state.report.sample_weight_max], 1, rtol=1e-7
        )


def linear_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(outputs, targets[:, None], 1)[:, 0]


@pytest.mark.filterwarnings("ignore::gtddp_jax.GameWarning")
@pytest.mark.parametrize("weighting", models.WEIGHTINGS)
def test_a_linear_loss_takes_the_step_of_the_base(weighting: str, float32: None) -> None:
    """Bit for bit, as at strength 0."""
    base = optax.adamw(0.03)
    tx = implicit(base, models.mlp, linear_loss, weighting=weighting)

    @as_users
    def plain(params: Tree, state: Any, batch: Any) -> tuple[Tree, Any]:
        gradient = jax.grad(lambda p: linear_loss(models.mlp(p, batch[0]), batch[1]).mean())(params)
        return base.update(gradient, state, params)

    @as_users
    def game(params: Tree, state: Any, batch: Any) -> tuple[Tree, Any]:
        return tx.update(None, state, params, batch=batch)

    state, our_state = base.init(start()), tx.init(start())
    for batch in batches()[:3]:
        want, state = plain(start(), state, batch)
        got, our_state = game(start(), our_state, batch)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(a, b)
    assert our_state.report.sample_weight_min == our_state.report.sample_weight_max == 1
    assert our_state.report.predicted_change == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::gtddp_jax.GameWarning")
def test_without_weights_a_step_costs_what_the_base_costs(float32: None) -> None:
    """At strength 0, and for a loss whose weights are 1."""
    base, sizes, batch = optax.adam(0.1), (24, 64, 32), 128
    params = jax.tree.map(lambda u: u.astype(jnp.float32), models.mlp_params(sizes))
    x, y = jnp.ones((batch, sizes[0])), jnp.zeros(batch, int)

    def flops(update: Any, state: Any) -> float:
        cost: Any = jax.jit(update).lower(params, state).compile().cost_analysis()
        return cost["flops"]

    def plain(loss: Any) -> float:
        def update(params: Tree, state: Any) -> tuple[Tree, Any, jax.Array]:
            value, gradient = jax.value_and_grad(lambda p: loss(models.mlp(p, x), y).mean())(params)
            return *base.update(gradient, state, params), value

        return flops(update, base.init(params))

    def game(loss: Any, **options: Any) -> float:
        tx = implicit(base, models.mlp, loss, **options)
        return flops(lambda p, s: tx.update(None, s, p, batch=(x, y)), tx.init(params))

    assert game(models.cross_entropy, strength=0.0) < 1.05 * plain(models.cross_entropy)
    for weighting in models.WEIGHTINGS:
        assert game(linear_loss, weighting=weighting) < 1.05 * plain(linear_loss), weighting
    assert game(models.cross_entropy) > 1.05 * plain(models.cross_entropy)
