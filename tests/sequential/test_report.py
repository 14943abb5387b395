"""The fields of the report, recomputed from their definitions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.default_run import quick_cases
from tests.sequential import zoo

RATE, B = 0.1, 3
LOSS = zoo.LOSSES["softmax"]


def problem() -> zoo.Problem:
    return zoo.problem("small", batch=B)


def stepped(p: zoo.Problem, **options: Any) -> tuple[Any, gt.Report]:
    """The updates and the report of one step of gradient descent with a regularizer."""
    tx: Any = gt.sgd(p.net, LOSS, RATE, **options)

    @jax.jit
    def step(params: Any) -> tuple[Any, gt.Report]:
        decay = jax.tree.map(lambda u: 0.1 * u, params)
        updates, state = tx.update(decay, tx.init(params), params, batch=(p.x, p.y))
        return updates, state.report

    return step(p.params)


def stage_gradients(p: zoo.Problem) -> list[np.ndarray]:
    """G [B, m] of each stage."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def gradients(params: Any, x: jax.Array, y: jax.Array) -> Any:
        return jax.grad(lambda q: LOSS(p.net.apply(q, x[None]), y[None])[0])(params)

    big = gradients(p.params, p.x, p.y)
    return [
        np.stack(
            [
                ravel_pytree(
                    {name: jax.tree.map(lambda g, i=i: g[i], big[name]) for name in names}
                )[0]
                for i in range(B)
            ]
        )
        for names in (stage.players for stage in p.net.stages)
    ]


def loss_line(p: zoo.Problem) -> tuple[np.ndarray, np.ndarray]:
    """Output gradients g [B, n] and h = g^T H g / |g|^4 [B] of the losses."""
    outputs: Any = p.net.apply(p.params, p.x)
    g, h = [], []
    for o, y in zip(outputs, p.y, strict=True):

        def loss(o: jax.Array, y: jax.Array = y) -> jax.Array:
            return LOSS(o[None], y[None])[0]

        derivative, hessian = np.asarray(jax.grad(loss)(o)), np.asarray(jax.hessian(loss)(o))
        g.append(derivative)
        h.append(derivative @ hessian @ derivative / (derivative @ derivative) ** 2)
    return np.stack(g), np.array(h)


@pytest.mark.slow
def test_weights_and_feedback() -> None:
    """The scalar recursions of docs/mathematics.md, "3. The collapse", with c = h d, in NumPy."""
    p = problem()
    updates, report = stepped(p, terminal=gt.terminal.ProjectedHessian())
    big, (_, h) = stage_gradients(p), loss_line(p)
    decay = [
        0.1 * np.asarray(ravel_pytree({n: p.params[n] for n in s.players})[0]) for s in p.net.stages
    ]
    alpha, c, plans = np.ones(B), h, []
    for gradients, cost in zip(reversed(big), reversed(decay), strict=True):
        k = -RATE * (cost + alpha @ gradients / B)
        plans.insert(0, (alpha, c, k))
        rho = c / B * RATE * np.square(gradients).sum(1)
        alpha, c = alpha + c * (gradients @ k), c * (1 - rho)
    delta, weights, ratios = np.zeros(B), [], []
    for gradients, cost, (alpha, c, k), stage in zip(big, decay, plans, p.net.stages, strict=True):
        w = alpha + c * delta
        step = -RATE * (cost + w @ gradients / B)
        got = ravel_pytree({name: updates[name] for name in stage.players})[0]
        np.testing.assert_allclose(got, step, rtol=1e-9, atol=1e-14)
        weights.append(w)
        ratios.append(np.linalg.norm(step - k) / np.linalg.norm(k))
        delta = delta + gradients @ step
    want = {
        "loss": LOSS(p.net.apply(p.params, p.x), p.y).mean(),
        "sample_weight_min": np.min(weights),
        "sample_weight_mean": np.mean(weights),
        "sample_weight_max": np.max(weights),
        "sample_weight_std": np.std(weights, axis=1),
        "feedback_ratio": ratios,
        "predicted_change": (delta + 0.5 * h * delta**2).mean(),
    }
    for name, value in want.items():
        np.testing.assert_allclose(getattr(report, name), value, rtol=1e-5, err_msg=name)
    assert ratios[0] == 0 and min(ratios[1:]) > 0.01 and np.std(weights) > 0.01
    assert not report.actual_change_known and report.actual_change == 0


@pytest.mark.parametrize("terminal", quick_cases(gt.terminal.TERMINALS))
def test_changes_of_the_loss(terminal: str) -> None:
    """The nonlinear rollout computes the new outputs, so the report has the actual change too."""
    p = problem()
    updates, report = stepped(p, terminal=gt.terminal.TERMINALS[terminal](), rollout="nonlinear")
    old: Any = p.net.apply(p.params, p.x)
    new: Any = p.net.apply(jax.tree.map(jnp.add, p.params, updates), p.x)
    g, h = loss_line(p)
    s = (g * np.asarray(new - old)).sum(1)
    if terminal == "exact_loss":
        bounded = np.clip(s, -np.linalg.norm(g, axis=1), np.linalg.norm(g, axis=1))
        shift = (bounded / np.square(g).sum(1))[:, None] * g
        predicted = np.asarray(LOSS(old + shift, p.y) - LOSS(old, p.y))
    else:
        predicted = s + 0.5 * (1 if terminal == "gradient" else h) * s**2
    actual = (LOSS(new, p.y) - LOSS(old, p.y)).mean()
    np.testing.assert_allclose(report.predicted_change, predicted.mean(), rtol=1e-5)
    np.testing.assert_allclose(report.actual_change, actual, rtol=1e-5)
    assert report.actual_change_known and actual < -0.01
    assert abs(predicted.mean() - s.mean()) > 1e-3  # more than first order


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_feedback_off_predicts_to_first_order(rollout: str) -> None:
    p = problem()
    updates, report = stepped(p, equilibrium="open_loop", rollout=rollout)
    size = float(jnp.square(ravel_pytree(updates)[0]).sum())
    np.testing.assert_allclose(report.predicted_change, -size / RATE, rtol=1e-5)
    assert (
        report.sample_weight_min == report.sample_weight_max == 1
        and not jnp.asarray(report.feedback_ratio).any()
    )


def test_before_the_first_step() -> None:
    p = problem()
    tx: Any = gt.sgd(p.net, LOSS, RATE)
    report = tx.init(p.params).report
    assert report.sample_weight_min == report.sample_weight_mean == report.sample_weight_max == 1
    assert report.loss == report.skipped_steps == 0 and not report.skipped
    assert report.sample_weight_std.shape == report.feedback_ratio.shape == (len(p.net.stages),)
