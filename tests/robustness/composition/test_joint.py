"""The joint game among optax's wrappers, under `vmap` and `scan`, and with bad data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt

# NumPy keeps float64 where JAX has not enabled it yet.
W: Any = {"a": np.array([0.5, -0.2]), "b": np.array(0.1)}
X = np.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.3]])
FULL_STEP = gt.step_control.FixedRate(1.0)


def residual(w: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(w["a"] @ x) + w["b"] - 0.3


def game(damping: Any = 0.1, **options: Any) -> Any:
    return gt.joint(residual, damping, step=FULL_STEP, **options)


def step_of(tx: Any, params: Any, updates: Any = None, batch: Any = X) -> Any:
    run = jax.jit(lambda params: tx.update(updates, tx.init(params), params, batch=batch))
    return run(params)


def zeros(params: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, params)


def close(got: Any, want: Any, rtol: float = 1e-10) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol), got, want)


def test_hyperparameters_may_be_injected() -> None:
    def build(damping: Any, momentum: Any) -> Any:
        return game(damping, momentum=momentum)

    schedule = optax.linear_schedule(0.1, 0.5, 10)
    tx = optax.inject_hyperparams(build)(damping=schedule, momentum=0.0)
    updates, state = step_of(tx, W, zeros(W))
    # A schedule is kept in single precision.
    close(updates, step_of(game(), W)[0], rtol=1e-6)
    np.testing.assert_allclose(state.hyperparams["damping"], 0.1, rtol=1e-6)
    assert not state.inner_state.report.skipped


def test_a_chain_before_the_game_gives_it_a_running_cost() -> None:
    """Weight decay as a linear cost: the step from the dense definition around a moved start."""
    tx = optax.chain(optax.add_decayed_weights(0.02), game(), optax.scale(0.5))
    got, _ = step_of(tx, W, zeros(W))
    flat = {"residual": (residual, lambda outputs, _: 0.5 * outputs @ outputs, 1.0)}
    start = jnp.asarray(-0.02 / 0.1 * np.append(W["a"], W["b"]))
    want = gt.reference.joint_step(flat, W, {"residual": X}, damping=0.1, momentum_step=start)
    np.testing.assert_allclose(np.append(got["a"], got["b"]), 0.5 * want, rtol=1e-10)


def test_seeds_train_side_by_side() -> None:
    tx: Any = gt.joint(residual, gt.damping.LevenbergMarquardt(), 0.5)

    def train(params: Any) -> Any:
        def step(carry: Any, x: jax.Array) -> Any:
            params, state = carry
            updates, state = tx.update(None, state, params, batch=x)
            return (optax.apply_updates(params, updates), state), state.report.loss

        return jax.lax.scan(step, (params, tx.init(params)), jnp.stack([X, X, X]))

    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1.0]), W)
    (params, state), losses = jax.jit(jax.vmap(train))(many)
    for seed in range(2):
        (want, _), one = jax.jit(train)(jax.tree.map(lambda leaf, s=seed: leaf[s], many))
        close(jax.tree.map(lambda leaf, s=seed: leaf[s], params), want)
        np.testing.assert_allclose(losses[seed], one, rtol=1e-5)
    assert state.step.tolist() == [3, 3]


WRAPPED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "MultiSteps": (lambda tx: optax.MultiSteps(tx, 2), r"the last mini-batch only.*chunk=n"),
    "lookahead": (
        lambda tx: optax.lookahead(tx, 5, 0.5),
        "params are optax.LookaheadParams|not supported, because lookahead changes",
    ),
    "schedule_free": (
        lambda tx: optax.contrib.schedule_free(tx, 0.1),
        r"joint inside optax's .* is not supported, because",
    ),
    "masked": (
        lambda tx: optax.masked(tx, {"a": True, "b": False}),
        "joint needs all parameters to evaluate the terms",
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_that_would_falsify_a_step_are_refused(wrapper: str) -> None:
    wrap, message = WRAPPED[wrapper]
    with pytest.raises(ValueError, match=message):
        tx = wrap(game())
        params = optax.LookaheadParams(W, W) if wrapper == "lookahead" else W
        jax.eval_shape(lambda: tx.update(zeros(params), tx.init(params), params, batch=X))


def test_none_never_loses_a_regularizer() -> None:
    tx: Any = optax.chain(optax.add_decayed_weights(0.1), game())
    with pytest.raises(ValueError, match=r"updates is None inside optax\.chain"):
        jax.eval_shape(lambda: tx.update(None, tx.init(W), W, batch=X))


def test_parameters_are_frozen_where_they_are_used() -> None:
    def frozen(w: Any, x: jax.Array) -> jax.Array:
        return residual(w | {"a": jax.lax.stop_gradient(w["a"])}, x)

    updates, _ = step_of(gt.joint(frozen, 0.1, 0.5, gt.metrics.AdamMetric()), W)
    assert not updates["a"].any() and updates["b"] != 0


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_a_float32_gram_matrix_that_lost_definiteness() -> None:
    """Equal rows without damping: an eigendecomposition solves in what is left."""
    w, x = jax.tree.map(jnp.float32, W), jnp.asarray(np.concatenate([X, X]), jnp.float32)
    tx = game(1e-20, side="dual", gram_dtype=jnp.float32)
    updates, state = step_of(tx, w, batch=x)
    report = state.report
    assert report.method == 1 and report.rank == 3 and not report.skipped
    want, _ = step_of(game(1e-20, side="dual", gram_dtype=jnp.float32), w, batch=x[:3])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), updates, want)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_residual_that_is_not_finite_is_skipped(bad: float) -> None:
    x = X.copy()
    x[1, 0] = bad
    tx = gt.joint(residual, gt.damping.LevenbergMarquardt(), 0.5, gt.metrics.MARCHMetric())
    updates, state = step_of(tx, W, batch=x)
    assert state.report.skipped and state.report.skipped_steps == 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((updates, state.previous_step)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.metric))
    np.testing.assert_allclose(state.damping, gt.damping.LevenbergMarquardt().initial, rtol=1e-6)
