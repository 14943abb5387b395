"""Other methods' formulas, written out, and the metrics of known optimizers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.joint.problems import PARAMS, problems

FULL_STEP = gt.step_control.FixedRate(1.0)
FIT = problems()["log cosh"].batch["fit"]
RESIDUAL = problems()["log cosh"].terms["fit"].residual


def flat_params() -> jax.Array:
    """The parameters as a vector, in the precision of the tests."""
    return ravel_pytree(PARAMS)[0]


def scaled_residuals(vector: jax.Array) -> jax.Array:
    unravel = ravel_pytree(PARAMS)[1]
    values = jax.vmap(lambda sample: RESIDUAL(unravel(vector), sample))(FIT)
    return values / jnp.sqrt(values.size)


linearize = jax.jit(lambda vector: (scaled_residuals(vector), jax.jacfwd(scaled_residuals)(vector)))


def run(tx: Any, steps: int) -> tuple[list[np.ndarray], list[Any]]:
    """The parameters and states after each step."""
    params, state = PARAMS, tx.init(PARAMS)
    update = jax.jit(tx.update)
    path, states = [], []
    for _ in range(steps):
        updates, state = update(None, state, params, batch=FIT)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(ravel_pytree(params)[0]))
        states.append(state)
    return path, states


@pytest.mark.slow
def test_levenberg_marquardt_step_for_step() -> None:
    """The damped normal equations, and damping by the gain ratio."""
    rule = gt.damping.LevenbergMarquardt(1e-3, floor=1e-9, shrink=0.1, grow=10.0)
    path, states = run(gt.joint(RESIDUAL, rule, step=FULL_STEP, side="primal"), 5)
    vector, ratio = flat_params(), 1e-3
    for got, state in zip(path, states, strict=True):
        residual, jacobian = linearize(vector)
        curvature = jacobian.T @ jacobian
        # Power iteration estimates the largest eigenvalue from below.
        largest = np.linalg.eigvalsh(curvature)[-1]
        np.testing.assert_allclose(state.report.damping, ratio * largest, rtol=0.05)
        damped = curvature + float(state.report.damping) * jnp.eye(vector.size)
        step = -jnp.linalg.solve(damped, jacobian.T @ residual)
        predicted = jnp.square(residual + jacobian @ step).sum() - jnp.square(residual).sum()
        vector = vector + step
        change = jnp.square(scaled_residuals(vector)).sum() - jnp.square(residual).sum()
        gain = change / predicted
        # The report keeps lambda in single precision.
        np.testing.assert_allclose(got, vector, rtol=1e-6)
        ratio = np.clip(ratio * (0.1 if gain > 0.75 else 10.0 if gain <= 0.25 else 1.0), 1e-9, 1e3)
        np.testing.assert_allclose(state.damping, ratio, rtol=1e-5)
        vector = jnp.asarray(got)


def test_march_step_for_step() -> None:
    """SPRING in a metric from the changes of the direction, `v^(1/4)` on either side."""
    mu, decay, damping, rate = 0.9, 0.95, 1e-2, 0.3
    metric = gt.metrics.MARCHMetric(decay)
    path, _ = run(gt.joint(RESIDUAL, damping, mu, metric, gt.step_control.FixedRate(rate)), 4)
    vector = flat_params()
    last = square = jnp.zeros_like(vector)
    for got in path:
        residual, jacobian = linearize(vector)
        scale = jnp.where((square == 0).all(), 1.0, square**0.25 + 1e-8)
        rows = jacobian / scale[None]
        gram = rows @ rows.T + damping * jnp.eye(residual.size)
        right = -residual - mu * jacobian @ last
        step = rows.T @ jnp.linalg.solve(gram, right) / scale + mu * last
        square = decay * square + jnp.square(step - last)
        last, vector = step, vector + rate * step
        np.testing.assert_allclose(got, vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_strong_damping_leaves_the_step_of_the_base(name: str) -> None:
    """With lambda far above the curvature the step is -gradient / (lambda M)."""
    damping = 1e9
    metrics = {"adam": gt.metrics.AdamMetric(), "rmsprop": gt.metrics.RMSPropMetric()}
    bases = {"adam": optax.adam(1.0, b1=0.0), "rmsprop": optax.rmsprop(1.0, decay=0.9)}
    tx: Any = gt.joint(RESIDUAL, damping, 0.0, metrics[name], FULL_STEP)
    base: Any = bases[name]

    @jax.jit
    def both(params: Any, state: Any, base_state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return 0.5 * jnp.square(scaled_residuals(ravel_pytree(params)[0])).sum()

        updates, state = tx.update(None, state, params, batch=FIT)
        want, base_state = base.update(jax.grad(loss)(params), base_state, params)
        return updates, want, state, base_state

    state, base_state, params = tx.init(PARAMS), base.init(PARAMS), PARAMS
    for _ in range(3):
        updates, want, state, base_state = both(params, state, base_state)
        got = damping * ravel_pytree(updates)[0]
        np.testing.assert_allclose(got, ravel_pytree(want)[0], rtol=1e-4, atol=1e-9)
        params = jax.tree.map(lambda p: p + 0.1, params)


@pytest.mark.slow
def test_exact_weights_of_one_output_are_the_same_game() -> None:
    """`weighting="exact"` around SGD is the joint step with lambda = 1 / rate, all orders in."""
    rate = 0.5

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        return (jnp.tanh(x @ params["hidden"] + params["bias"][None]) @ params["readout"])[:, 2]

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.log(jnp.cosh(outputs - targets))

    weighting = gt.weighting.Exact(steps=30)
    implicit: Any = gt.implicit(optax.sgd(rate), apply_fn, loss, weighting=weighting, bounds=None)
    term = gt.supervised_term(apply_fn, loss)
    joint: Any = gt.joint(term, 1 / rate, step=FULL_STEP)
    steps = [
        jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=FIT)[0] for tx in (implicit, joint)
    ]
    got, want = (ravel_pytree(step)[0] for step in steps)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)
