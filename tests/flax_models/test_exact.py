"""Steps on Flax models equal the dense definition in `gtddp_jax.reference`, for both rollouts."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.flax_models import zoo
from tests.sequential.oracle import relative_error

RATES = {"perceptron": 0.1, "unet": 0.005, "lstm": 0.1, "einsum": 0.05}
"""Rates of gradient descent at which sample weights differ while rho stays below 1."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RATES)
def test_steps_equal_the_dense_definition(name: str) -> None:
    rate = RATES[name]
    p = zoo.problem(name, batch=2)
    outputs: Any = p.net.apply(p.params, p.inputs)
    y = jnp.asarray(np.random.default_rng(1).normal(size=outputs.shape))

    def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(outputs - y).reshape(len(y), -1).sum(1)

    players = p.net.split(p.params)
    stages: Any = p.net.stages  # callable like the stages of a Network
    gains = gt.reference.preconditioned_gains(lambda t, q: rate * jnp.eye(q.size))

    @jax.jit
    def steps_by_rollout(players: Any) -> dict[str, Any]:
        steps = {}
        for rollout in ROLLOUTS:
            want = gt.reference.ddp_step(
                stages,
                players,
                p.inputs,
                lambda outputs: loss(outputs, y),
                gt.reference.HESSIANS["projected"],
                gains,
                rollout=rollout,
            ).steps
            terminal = gt.terminal.ProjectedHessian()
            curvature = gt.curvature.SGD(rate)
            tx: Any = gt.gtddp(p.net, loss, curvature, terminal=terminal, rollout=rollout)
            step, state = tx.update(None, tx.init(p.params), p.params, batch=(p.inputs, y))
            report = state.report
            steps[rollout] = (
                p.net.split(step),
                want,
                report.sample_weight_max - report.sample_weight_min,
            )
        return steps

    steps = steps_by_rollout(players)
    for rollout, (got, want, spread) in steps.items():
        assert relative_error(got, want) < 1e-9, rollout
        assert spread > 0.01, rollout
    assert relative_error(steps["linear"][0], steps["nonlinear"][0]) > 1e-9


@pytest.mark.slow
def test_masked_positions_have_no_influence() -> None:
    """Labels at positions that the loss masks out do not change the step."""
    p = zoo.problem("gpt", batch=2)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 7, size=(2, 5)))
    mask = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], jnp.float64)

    def loss(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
        per_position = optax.softmax_cross_entropy_with_integer_labels(outputs, targets[0])
        return (targets[1] * per_position).sum(-1) / targets[1].sum(-1)

    tx: Any = gt.sgd(p.net, loss, 0.1)

    @jax.jit
    def step(labels: jax.Array) -> Any:
        batch = (p.inputs, (labels, mask))
        return tx.update(None, tx.init(p.params), p.params, batch=batch)[0]

    first, second = step(labels), step(labels.at[:, 3:].set(0))
    chex.assert_trees_all_equal(first, second)
    assert optax.tree.norm(first) > 0


@pytest.mark.slow
def test_verify_takes_a_masked_sequence_loss() -> None:
    p = zoo.problem("nnx_transformer", batch=2)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 7, size=(2, 3)))
    mask = jnp.asarray([[1, 1, 0], [1, 0, 0]], jnp.float64)

    def loss(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
        per_position = optax.softmax_cross_entropy_with_integer_labels(outputs, targets[0])
        return (targets[1] * per_position).sum(-1)

    batch = (p.inputs, (labels, mask))
    verification = gt.verify(p.net, p.params, batch, loss=loss, batch_stats=p.batch_stats)
    assert verification.ok, str(verification)


@pytest.mark.slow
def test_verify_finds_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` fails if the weighted sums of one kind of use are off by a tenth."""
    from gtddp_jax.tracing.ops.bilinear import BilinearUse

    p = zoo.problem("perceptron")
    weighted_sum = BilinearUse.weighted_sum
    monkeypatch.setattr(
        BilinearUse, "weighted_sum", lambda self, w: (1.1 * weighted_sum(self, w)[0],)
    )
    verification = gt.verify(p.net, p.params, (p.inputs, None))
    assert not verification.ok
    wrong = {check.name for check in verification.checks if not check.ok}
    assert "gradients of single samples" in wrong
    assert "step, against the dense definition" in wrong
    assert "FAIL" in str(verification)
