"""Every sample weighting in everything that optax users do with a transformation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.implicit import dense, models
from tests.implicit.models import implicit

Tree = Any
WEIGHTINGS: dict[str, Any] = {
    "sketch": gt.weighting.Sketch(share=0.5),
    "full": "full",
    "exact, matrix-free": gt.weighting.Exact(steps=2, form="matrix_free", solver_steps=6),
}
BASE = optax.adam(0.1)
each_weighting = pytest.mark.parametrize("weighting", quick_cases(WEIGHTINGS, "sketch"))


def transformation(weighting: str, base: Any = BASE, **options: Any) -> Any:
    return implicit(
        base, models.mlp, models.cross_entropy, weighting=WEIGHTINGS[weighting], **options
    )


def step_with(tx: Any, p: dense.Problem) -> Any:
    def step(params: Tree, state: Any) -> tuple[Tree, Any]:
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, state = tx.update(zeros, state, params, batch=(p.x, p.y))
        return optax.apply_updates(params, updates), state

    return step


def looped(tx: Any, p: dense.Problem, steps: int = 3) -> tuple[Tree, Any]:
    step = jax.jit(step_with(tx, p))
    params, state = p.params, tx.init(p.params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def assert_close(got: Tree, want: Tree, rtol: float = 1e-10) -> None:
    """Compare trees; reports are in float32."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        tolerance = rtol if a.dtype == jnp.float64 else max(rtol, 1e-5)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-3 * tolerance)


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple[Tree, Any]]:
    """Three steps in an ordinary loop."""
    with jax.enable_x64(True):
        p = models.classification()
        found = {name: looped(transformation(name), p) for name in WEIGHTINGS}
        for name, (_, state) in found.items():
            assert state.report.sample_weight_max - state.report.sample_weight_min > 1e-3, name
        return found


@pytest.mark.slow
@each_weighting
def test_steps_inside_a_scan(weighting: str, trained: dict[str, Any]) -> None:
    p, tx = models.classification(), transformation(weighting)
    step = step_with(tx, p)

    @jax.jit
    def scanned(start: Any) -> Any:
        return jax.lax.scan(lambda now, _: (step(*now), None), start, None, length=3)[0]

    assert_close(scanned((p.params, tx.init(p.params))), trained[weighting])


@pytest.mark.slow
@each_weighting
def test_seeds_side_by_side(weighting: str, trained: dict[str, Any]) -> None:
    p, tx = models.classification(), transformation(weighting)
    step = step_with(tx, p)
    seeds = [p.params, models.mlp_params(seed=5)]
    stacked = jax.tree.map(lambda *u: jnp.stack(u), *seeds)

    @jax.jit
    def all_seeds(params: Tree) -> Any:
        now = params, jax.vmap(tx.init)(params)
        return jax.lax.scan(lambda now, _: (jax.vmap(step)(*now), None), now, None, length=3)[0]

    got = all_seeds(stacked)
    assert_close(jax.tree.map(lambda u: u[0], got), trained[weighting])
    assert not np.allclose(got[0]["out"]["w"][0], got[0]["out"]["w"][1])


@each_weighting
def test_donated_buffers(weighting: str, trained: dict[str, Any]) -> None:
    p = models.classification()
    tx = transformation(weighting)
    donated = jax.jit(step_with(tx, p), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, p.params)
    state = tx.init(params)
    for _ in range(3):
        params, state = donated(params, state)
    assert_close((params, state), trained[weighting])


@each_weighting
@pytest.mark.parametrize("kept", ["float32", "float64", "bfloat16"])
def test_the_state_keeps_its_structure(weighting: str, kept: str) -> None:
    """`lax.cond` proves that structure, shapes and dtypes of the state are a fixed point."""
    p = models.classification()
    cast = jax.tree.map(lambda u: u.astype(kept), p.params)
    tx = transformation(weighting)

    def both(params: Tree, x: jax.Array) -> Any:
        state = tx.init(params)
        updates, new = tx.update(None, state, params, batch=(x, p.y))
        assert jax.tree.map(jnp.dtype, updates) == jax.tree.map(jnp.dtype, params)
        return jax.lax.cond(new.report.skipped, lambda: state, lambda: new)

    jax.eval_shape(both, cast, p.x.astype(kept))


@each_weighting
def test_decay_before_and_clipping_inside(weighting: str) -> None:
    """What stands before the game adds to the running cost's gradient; the base holds the rest."""
    p = models.classification()
    clipped = optax.chain(BASE, optax.clip_by_global_norm(0.05), optax.scale(2.0))
    tx = transformation(weighting, clipped)
    chain = optax.chain(optax.add_decayed_weights(0.2), tx)

    @jax.jit
    def by_hand(params: Tree, state: Any) -> tuple[Tree, Any]:
        running = jax.tree.map(lambda u: 0.2 * u, params)
        updates, state = tx.update(running, state, params, batch=(p.x, p.y))
        return optax.apply_updates(params, updates), state

    params, state = p.params, tx.init(p.params)
    for _ in range(3):
        params, state = by_hand(params, state)
    got, chain_state = looped(chain, p)
    assert_close((got, chain_state[1]), (params, state))
    assert not state.report.double_counted


def test_the_running_cost_is_added_to_the_gradient() -> None:
    """With weights of 1 the result is the base's step on the sum."""
    p = models.classification()
    tx = transformation("full", strength=0.0)

    @jax.jit
    def both(params: Tree) -> tuple[Tree, Tree]:
        gradient = jax.grad(lambda u: p.loss(p.apply_fn(u, p.x), p.y).mean())(params)
        running = jax.tree.map(lambda u: 0.2 * u, params)
        want = BASE.update(optax.tree.add(gradient, running), BASE.init(params), params)
        got, state = tx.update(running, tx.init(params), params, batch=(p.x, p.y))
        return (got, state.base), want

    assert_close(*both(p.params))


@each_weighting
def test_a_batch_that_is_not_finite_is_skipped(weighting: str, trained: dict[str, Any]) -> None:
    """Only the counts change; the next finite batch continues as if the bad one had not come."""
    p, tx = models.classification(), transformation(weighting)

    @jax.jit
    def step(params: Tree, state: Any, x: jax.Array) -> tuple[Tree, Any]:
        updates, state = tx.update(None, state, params, batch=(x, p.y))
        return optax.apply_updates(params, updates), state

    params, state = trained[weighting]
    for bad in (jnp.nan, jnp.inf):
        same, after = step(params, state, p.x.at[1, 2].set(bad))
        assert after.report.skipped and after.report.skipped_steps == 1
        assert after.step == state.step + 1
        assert_close((same, after.base), (params, state.base), rtol=0)
        with_gap, recovered = step(same, after._replace(step=state.step), p.x)
        want, want_state = step(params, state, p.x)
        assert not recovered.report.skipped and recovered.report.skipped_steps == 1
        assert_close((with_gap, recovered.base), (want, want_state.base), rtol=0)


def test_hyperparameters_injected_into_the_base() -> None:
    """The learning rate is in the base's state, where it can be changed between steps."""
    p = models.classification()
    tx = transformation("full", optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))

    @jax.jit
    def update(state: Any) -> tuple[Tree, Any]:
        return tx.update(None, state, p.params, batch=(p.x, p.y))

    state = tx.init(p.params)
    for rate in (0.5, 0.01):
        state.base.hyperparams["learning_rate"] = jnp.asarray(rate)
        updates, after = update(state)
        want, want_state = jax.jit(transformation("full", optax.sgd(rate)).update)(
            None,
            transformation("full", optax.sgd(rate)).init(p.params),
            p.params,
            batch=(p.x, p.y),
        )
        assert_close((updates, after.report), (want, want_state.report))


@pytest.mark.slow
def test_hyperparameters_injected_around() -> None:
    """Traced options such as `strength` can be injected, with a schedule."""
    p = models.classification()
    injected = optax.inject_hyperparams(
        gt.implicit, static_args=("base", "model", "loss", "weighting", "bounds")
    )
    tx = injected(
        BASE,
        models.mlp,
        models.cross_entropy,
        weighting="full",
        strength=lambda count: 0.5 * count,
    )
    _, state = looped(tx, p)
    assert state.hyperparams["strength"] == 1
    params, inner = p.params, transformation("full").init(p.params)
    for strength in (0.0, 0.5, 1.0):
        params, inner = jax.jit(step_with(transformation("full", strength=strength), p))(
            params, inner
        )
    assert_close(state.inner_state, inner)


def test_extra_arguments_reach_the_base() -> None:
    """For example the value that `reduce_on_plateau` monitors."""
    p = models.classification()
    base = optax.chain(optax.sgd(0.5), optax.contrib.reduce_on_plateau(patience=1, factor=0.1))
    tx = transformation("full", base)

    @jax.jit
    def step(params: Tree, state: Any) -> tuple[Tree, Any]:
        updates, state = tx.update(
            None, state, params, batch=(p.x, p.y), value=jnp.asarray(1.0, jnp.float32)
        )
        return optax.apply_updates(params, updates), state

    params, state = p.params, tx.init(p.params)
    for _ in range(4):
        params, state = step(params, state)
    assert state.base[1].scale < 1


def test_a_loss_gradient_as_running_cost_is_noticed() -> None:
    p, tx = models.classification(), transformation("full")

    @jax.jit
    def flags(params: Tree) -> list[jax.Array]:
        gradient = jax.grad(lambda u: p.loss(p.apply_fn(u, p.x), p.y).mean())(params)
        decay = jax.tree.map(lambda u: 0.1 * u, params)
        return [
            tx.update(running, tx.init(params), params, batch=(p.x, p.y))[1].report.double_counted
            for running in (gradient, decay, None)
        ]

    # The weighted gradient is compared, so weights of 1 make the likeness exact.
    tx = transformation("full", optax.sgd(1e-4))
    assert list(map(bool, flags(p.params))) == [True, False, False]


def test_a_running_cost_that_overflows_the_state_is_skipped(float32: None) -> None:
    """Its square would be infinite in Adam's second moment, and all later steps zero."""
    params = models.mlp_params()
    p = models.classification()
    tx = transformation("full", optax.adam(0.01))
    running = jax.tree.map(lambda u: jnp.full_like(u, 1e25), params)
    _, state = jax.jit(lambda s: tx.update(running, s, params, batch=(p.x, p.y)))(tx.init(params))
    assert state.report.skipped and jnp.isfinite(state.base[0].nu["out"]["b"]).all()
