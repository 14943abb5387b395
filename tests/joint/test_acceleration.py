"""Geodesic acceleration against its definition: dense second derivatives and one dense solve."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.joint.problems import PARAMS, Problem, cross_entropy, logits, problems
from tests.joint.test_exact import DAMPING, PREVIOUS, dense_step, gradient

HALF = gt.step_control.FixedRate(0.5)
ALWAYS = 1e9
"""A bound that no acceleration exceeds."""


@functools.cache
def problem(name: str) -> Problem:
    return problems()[name]


def dense_acceleration(name: str, step: jax.Array, metric: jax.Array | float) -> jax.Array:
    """The minimizer of `1/2 (o'' + J a)^T H (o'' + J a) + lambda / 2 a^T M a`, all dense."""
    p = problem(name)
    flat, unravel = ravel_pytree(PARAMS)
    curvature, right = DAMPING * jnp.diag(metric * jnp.ones_like(flat)), jnp.zeros_like(flat)
    for key, (residual, loss, weight) in p.definitions().items():
        samples = jax.tree.leaves(p.batch[key])[0].shape[0]
        for i in range(samples):
            sample = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf)[i], p.batch[key])

            def outputs(vector: jax.Array, r: Any = residual, s: Any = sample) -> jax.Array:
                return jnp.ravel(r(unravel(vector), s))

            rows = jax.jacfwd(outputs)(flat)
            second = jax.jacfwd(jax.jacfwd(outputs))(flat) @ step @ step
            hessian = jax.hessian(loss)(outputs(flat) + rows @ step, sample) * weight / samples
            curvature = curvature + rows.T @ hessian @ rows
            right = right - rows.T @ hessian @ second
    return jnp.linalg.solve(curvature, right)


def accelerated_step(name: str, metric: bool, momentum: float = 0.0, **options: Any) -> Any:
    adam = gt.metrics.AdamMetric() if metric else None
    tx: Any = gt.joint(
        problem(name).terms, DAMPING, momentum, adam, HALF, acceleration=ALWAYS, **options
    )
    state = tx.init(PARAMS)
    if momentum:
        state = state._replace(previous_step=PREVIOUS)
    return jax.jit(tx.update)(None, state, PARAMS, batch=problem(name).batch)


def expected_step(name: str, metric: bool, momentum: float = 0.0) -> tuple[jax.Array, jax.Array]:
    diagonal = jnp.abs(ravel_pytree(gradient(name))[0]) + 1e-8 if metric else 1.0
    step = dense_step(name, momentum, metric)
    return step, dense_acceleration(name, step, diagonal)


CASES = quick_cases(
    itertools.product(problems(), ("dual", "primal"), (False, True)),
    ("squared", "dual", True),
    ("cross entropy", "primal", False),
)


@pytest.mark.parametrize(("name", "side", "metric"), CASES)
def test_a_step_bends_as_defined(name: str, side: str, metric: bool) -> None:
    step, state = accelerated_step(name, metric, 0.7, side=side)
    direction, bend = expected_step(name, metric, 0.7)
    want = 0.5 * direction + 0.125 * bend
    got = ravel_pytree(step)[0]
    assert jnp.linalg.norm(got - want) <= 1e-10 * jnp.linalg.norm(want)
    assert jnp.linalg.norm(bend) > 1e-3 * jnp.linalg.norm(direction)
    ratio = jnp.linalg.norm(bend) / jnp.linalg.norm(direction)
    np.testing.assert_allclose(state.report.acceleration_ratio, ratio, rtol=1e-6)
    np.testing.assert_allclose(state.report.step_norm, jnp.linalg.norm(want), rtol=1e-6)
    # SPRING's momentum remembers the path at length 1.
    remembered = ravel_pytree(state.previous_step)[0]
    np.testing.assert_allclose(remembered, direction + 0.5 * bend, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "chunk"), [("dual", 2), ("primal", 2)])
def test_chunks_change_nothing(side: str, chunk: int) -> None:
    step, _ = accelerated_step("squared", True, side=side, chunk=chunk)
    direction, bend = expected_step("squared", True)
    got = ravel_pytree(step)[0]
    np.testing.assert_allclose(got, 0.5 * direction + 0.125 * bend, rtol=1e-8)


@pytest.mark.slow
def test_conjugate_gradients_find_the_same_step() -> None:
    step, _ = accelerated_step("squared", False, side="matrix_free", conjugate_gradient_steps=300)
    direction, bend = expected_step("squared", False)
    want = 0.5 * direction + 0.125 * bend
    assert jnp.linalg.norm(ravel_pytree(step)[0] - want) <= 1e-7 * jnp.linalg.norm(want)


@pytest.mark.slow
def test_a_function_of_losses_bends_alike() -> None:
    """One step with terms of single samples, and with the losses of the whole batch."""
    samples = problem("cross entropy").batch["labels"]
    x, labels = jnp.asarray(samples["x"]), jnp.asarray(samples["label"])
    options: Any = {"damping": DAMPING, "step": HALF, "acceleration": ALWAYS}
    by_terms: Any = gt.joint({"loss": gt.Term(logits, cross_entropy)}, **options)
    want, _ = jax.jit(by_terms.update)(None, by_terms.init(PARAMS), PARAMS, batch=samples)
    tx: Any = gt.joint(**options)

    def losses(params: Any) -> gt.Losses:
        outputs = jax.vmap(lambda point: logits(params, {"x": point}))(x)
        per_sample = optax.softmax_cross_entropy_with_integer_labels
        return gt.Losses(outputs, lambda o: per_sample(o, labels))

    step, state = jax.jit(lambda p, s: tx.update(None, s, p, losses=losses))(
        PARAMS, tx.init(PARAMS)
    )
    assert state.report.acceleration_ratio > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), step, want)


def test_float32_without_x64() -> None:
    with jax.enable_x64(False):
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), PARAMS)
        p = problem("squared")
        batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p.batch)
        tx: Any = gt.joint(p.terms, gt.damping.LossDamping(), acceleration=0.75)
        state, update = tx.init(params), jax.jit(tx.update)
        losses = []
        for _ in range(20):
            updates, state = update(None, state, params, batch=batch)
            params = optax.apply_updates(params, updates)
            losses.append(float(state.report.loss))
    assert jax.tree.leaves(params)[0].dtype == jnp.float32
    assert not state.report.skipped and losses[-1] < 1e-5 * losses[0]


@pytest.mark.slow
def test_an_acceleration_beyond_the_bound_is_left_out() -> None:
    p = problem("squared")
    for bound, bends in [(1e-6, False), (ALWAYS, True)]:
        tx: Any = gt.joint(p.terms, DAMPING, step=HALF, acceleration=bound)
        step, state = jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=p.batch)
        straight = 0.5 * dense_step("squared", 0.0, False)
        difference = jnp.linalg.norm(ravel_pytree(step)[0] - straight)
        assert (difference > 1e-3 * jnp.linalg.norm(straight)) == bends
        assert state.report.acceleration_ratio > 1e-6


def test_a_step_keeps_to_its_norm_constraint() -> None:
    p = problem("squared")
    rule = gt.step_control.FixedRate(1.0, norm_constraint=1e-4)
    tx: Any = gt.joint(p.terms, DAMPING, step=rule, acceleration=ALWAYS)
    step, _ = jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=p.batch)
    assert 0.5e-2 < optax.tree.norm(step) <= 1e-2


@pytest.mark.slow
def test_a_running_cost_is_judged_along_the_path() -> None:
    """The actual change has the running cost of the whole step, its bend included."""
    p = problem("log cosh")
    cost = jax.tree.map(lambda leaf: 2e-3 * jnp.ones_like(leaf), PARAMS)
    tx: Any = gt.joint(p.terms, DAMPING, step=HALF, acceleration=ALWAYS)
    step, state = jax.jit(tx.update)(cost, tx.init(PARAMS), PARAMS, batch=p.batch)

    def objective(params: Any) -> jax.Array:
        term = p.terms["fit"]
        values = jax.vmap(lambda s: term.sample_loss(term.flat_residual(params, s), s))
        return values(p.batch["fit"]).mean()

    after = objective(jax.tree.map(jnp.add, PARAMS, step)) + 2e-3 * ravel_pytree(step)[0].sum()
    np.testing.assert_allclose(state.report.actual_change, after - objective(PARAMS), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["dual", "primal"])
def test_reverse_rules_are_refused(side: str) -> None:
    @jax.custom_vjp
    def square(x: jax.Array) -> jax.Array:
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    tx: Any = gt.joint({"fit": lambda w, x: square(w) - x}, acceleration=0.75, side=side)
    w = jnp.array(1.0)
    with pytest.raises(TypeError, match=r"term 'fit' .*custom_vjp.*acceleration.*custom_jvp"):
        tx.update(None, tx.init(w), w, batch=jnp.ones(2))


def test_a_parabolic_valley_takes_one_step() -> None:
    """Rosenbrock's function, from its usual start: its minimum is on a path of second order."""

    def residual(w: Any, _: Any) -> jax.Array:
        return jnp.stack([10 * (w[1] - w[0] ** 2), 1 - w[0]])

    step = gt.step_control.FixedRate(1.0)
    tx: Any = gt.joint(residual, 1e-12, step=step, acceleration=ALWAYS)
    w = jnp.array([-1.2, 1.0])
    updates, _ = jax.jit(tx.update)(None, tx.init(w), w, batch=jnp.zeros(1))
    np.testing.assert_allclose(w + updates, jnp.ones(2), rtol=1e-9)
