"""The joint step against its dense definition: every loss, side, chunk, metric and momentum."""

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
from tests.joint.problems import PARAMS, Problem, interior, problems

DAMPING = 1e-3
FULL_STEP = gt.step_control.FixedRate(1.0)
PREVIOUS = jax.tree.map(lambda p: 0.1 * np.cos(p), PARAMS)


@functools.cache
def problem(name: str) -> Problem:
    return problems()[name]


@functools.cache
def gradient(name: str) -> Any:
    return jax.jit(jax.grad(problem(name).objective))(PARAMS)


@functools.cache
def dense_step(name: str, momentum: float, metric: bool) -> jax.Array:
    p = problem(name)
    diagonal = jnp.abs(ravel_pytree(gradient(name))[0]) + 1e-8 if metric else None
    start = momentum * ravel_pytree(PREVIOUS)[0]
    return gt.reference.joint_step(
        p.definitions(), PARAMS, p.batch, damping=DAMPING, momentum_step=start, metric=diagonal
    )


@functools.cache
def compiled(name: str, momentum: float, metric: bool, **options: Any) -> tuple[Any, Any]:
    """The initial state and a compiled step."""
    # At the first step Adam's corrected second moment is the squared gradient.
    adam = gt.metrics.AdamMetric() if metric else None
    tx: Any = gt.joint(problem(name).terms, DAMPING, momentum, adam, FULL_STEP, **options)
    return tx.init(PARAMS), jax.jit(tx.update)


def joint_step(name: str, momentum: float = 0.0, metric: bool = False, **options: Any) -> Any:
    state, update = compiled(name, momentum, metric, **options)
    if momentum:
        state = state._replace(previous_step=PREVIOUS)
    return update(None, state, PARAMS, batch=problem(name).batch)


def check(step: Any, want: jax.Array) -> None:
    got = ravel_pytree(step)[0]
    assert jnp.linalg.norm(got - want) <= 1e-10 * jnp.linalg.norm(want)


CASES = quick_cases(
    itertools.product(problems(), ("dual", "primal"), (False, True)),
    ("squared", "dual", True),
    ("cross entropy", "primal", False),
)


@pytest.mark.parametrize(("name", "side", "metric"), CASES)
def test_a_step_is_the_minimizer(name: str, side: str, metric: bool) -> None:
    """With and without a momentum step; the metric is the identity or Adam's."""
    step, state = joint_step(name, 0.7, metric, side=side)
    check(step, dense_step(name, 0.7, metric))
    assert state.report.method == 0 and not state.report.skipped
    assert state.report.linear_residual < 1e-10
    initial, update = compiled(name, 0.7, metric, side=side)
    step, _ = update(None, initial, PARAMS, batch=problem(name).batch)
    check(step, dense_step(name, 0.0, metric))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "chunk"), [("dual", 2), ("dual", 4), ("primal", 2), ("primal", 1)]
)
def test_chunks_change_nothing(side: str, chunk: int) -> None:
    step, _ = joint_step("squared", 0.7, True, side=side, chunk=chunk)
    check(step, dense_step("squared", 0.7, True))


@pytest.mark.parametrize("side", quick_cases(["dual", "primal"]))
def test_losses_that_are_flat_in_places(side: str) -> None:
    """The tails of Huber's loss have a gradient but no curvature."""

    def huber(outputs: jax.Array, sample: Any) -> jax.Array:
        del sample
        return optax.huber_loss(outputs, delta=3.0).sum()

    term = gt.Term(lambda params, sample: 3 * interior(params, sample[0]), huber)
    p = Problem({"fit": term}, problem("log cosh").batch)
    want = gt.reference.joint_step(p.definitions(), PARAMS, p.batch, damping=0.1)
    tx: Any = gt.joint(p.terms, 0.1, step=FULL_STEP, side=side, newton_steps=100)
    step, state = jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=p.batch)
    check(step, want)
    outputs = jax.vmap(lambda sample: term.residual(PARAMS, sample))(p.batch["fit"])
    assert (jnp.abs(outputs) > 3.0).any() and (jnp.abs(outputs) < 3.0).any()
    assert state.report.newton_steps < 100


@pytest.mark.parametrize("side", quick_cases(["dual", "primal"]))
def test_newton_steps_are_limited_and_counted(side: str) -> None:
    _, state = joint_step("cross entropy", side=side, newton_steps=2)
    assert state.report.newton_steps == 2
    _, state = joint_step("cross entropy", side=side)
    assert 2 < state.report.newton_steps < 30


def test_no_momentum_is_a_momentum_of_zero() -> None:
    check(joint_step("squared")[0], dense_step("squared", 0.0, False))


@pytest.mark.parametrize("name", quick_cases(["squared", "cross entropy"]))
def test_conjugate_gradients_find_the_same_step(name: str) -> None:
    step, state = joint_step(name, 0.7, side="matrix_free", conjugate_gradient_steps=300)
    got, want = ravel_pytree(step)[0], dense_step(name, 0.7, False)
    assert jnp.linalg.norm(got - want) <= 1e-7 * jnp.linalg.norm(want)
    assert state.report.method == 2 and jnp.isnan(state.report.condition)
    assert 0 < state.report.linear_residual < 1e-11


def test_few_conjugate_gradient_steps_are_reported() -> None:
    step, state = joint_step("squared", side="matrix_free", conjugate_gradient_steps=2)
    got, want = ravel_pytree(step)[0], dense_step("squared", 0.0, False)
    assert state.report.linear_residual > 1e-3
    assert jnp.linalg.norm(got - want) > 1e-3 * jnp.linalg.norm(want)


def test_both_sides_report_the_same_figures() -> None:
    sides = ("dual", "primal")
    reports = [joint_step("squared", 0.7, True, side=side)[1].report for side in sides]
    for field in ("loss", "predicted_change", "actual_change", "gain_ratio", "damping"):
        np.testing.assert_allclose(*(getattr(report, field) for report in reports), rtol=1e-5)
    # Power iteration estimates from below, from different starts.
    np.testing.assert_allclose(*(report.largest_eigenvalue for report in reports), rtol=0.1)


def test_the_predicted_change_is_that_of_linear_outputs() -> None:
    p = problem("squared")
    step, state = joint_step("squared")

    def outputs(params: Any, name: str) -> jax.Array:
        residual = p.terms[name].flat_residual
        return jax.vmap(lambda sample: residual(params, sample))(p.batch[name])

    want = 0.0
    for name, term in p.terms.items():
        value, change = jax.jvp(lambda params, n=name: outputs(params, n), (PARAMS,), (step,))
        half = 0.5 * term.weight / value.shape[0]
        want = want + half * (jnp.square(value + change).sum() - jnp.square(value).sum())
    np.testing.assert_allclose(state.report.predicted_change, want, rtol=1e-5)


@pytest.mark.parametrize(("side", "samples"), [("dual", 3), ("primal", 6)])
def test_linear_least_squares_takes_one_step(side: str, samples: int) -> None:
    """The nearest of all minimisers, with the side that "auto" takes."""
    matrix = jax.random.normal(jax.random.key(0), (samples, 4))
    right = jnp.arange(float(samples))
    tx: Any = gt.joint(lambda w, s: s[0] @ w - s[1], 1e-12, step=FULL_STEP, side=side)
    w = jnp.ones(4)
    step, _ = jax.jit(tx.update)(None, tx.init(w), w, batch=(matrix, right))
    want = jnp.linalg.pinv(matrix) @ (right - matrix @ w)
    np.testing.assert_allclose(step, want, rtol=1e-9)


@pytest.mark.slow
def test_spring_step_for_step() -> None:
    """Goldshlager et al. 2024: `d = O^T (O O^T + lambda)^-1 (e - O mu d_last) + mu d_last`."""
    rate, damping, momentum, bound = 0.3, 1e-2, 0.9, 1e-2
    p = problem("log cosh")
    residual = p.terms["fit"].residual
    step = gt.step_control.FixedRate(rate, norm_constraint=bound)
    tx: Any = gt.joint(residual, damping, momentum, step=step)
    params, state = PARAMS, tx.init(PARAMS)
    flat, unravel = ravel_pytree(PARAMS)
    last = jnp.zeros_like(flat)
    update = jax.jit(tx.update)

    def scaled(vector: jax.Array) -> jax.Array:
        batch = p.batch["fit"]
        values = jax.vmap(lambda s: residual(unravel(vector), s))(batch)
        return values / jnp.sqrt(values.size)

    for _ in range(4):
        updates, state = update(None, state, params, batch=p.batch["fit"])
        params = jax.tree.map(jnp.add, params, updates)
        rows, error = jax.jacfwd(scaled)(flat), -scaled(flat)
        gram = rows @ rows.T + damping * jnp.eye(error.size)
        direction = (
            rows.T @ jnp.linalg.solve(gram, error - momentum * rows @ last) + momentum * last
        )
        length = jnp.minimum(rate, jnp.sqrt(bound) / jnp.linalg.norm(direction))
        flat, last = flat + length * direction, direction
        np.testing.assert_allclose(ravel_pytree(params)[0], flat, rtol=1e-9)


@pytest.mark.slow
def test_invariances() -> None:
    """The order of samples, a term split in two, and a common factor on weights and damping."""
    p = problem("squared")
    want, _ = joint_step("squared")
    order = jnp.array([3, 0, 4, 1, 2])
    shuffled = p.batch | {"pde": p.batch["pde"][order]}
    halves = {"pde": p.batch["pde"][:2], "rest": p.batch["pde"][2:]}
    split_terms = {
        "boundary": p.terms["boundary"],
        "pde": gt.Term(p.terms["pde"].residual, weight=2 / 5),
        "rest": gt.Term(p.terms["pde"].residual, weight=3 / 5),
    }
    scaled_terms = {n: gt.Term(t.residual, weight=7.0 * t.weight) for n, t in p.terms.items()}
    cases = [
        (p.terms, shuffled, DAMPING),
        (split_terms, halves | {"boundary": p.batch["boundary"]}, DAMPING),
        (scaled_terms, p.batch, 7.0 * DAMPING),
    ]
    for terms, batch, damping in cases:
        tx: Any = gt.joint(terms, damping, step=FULL_STEP)
        got, _ = jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=batch)
        check(got, ravel_pytree(want)[0])
