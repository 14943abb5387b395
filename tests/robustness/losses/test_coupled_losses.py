"""Losses that couple samples are played with weights of 1, and reported; other losses never are."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.terminal.base import loss_along_gradient
from gtddp_jax.terminal.coupling import samples_are_coupled
from tests.robustness.losses import problems
from tests.robustness.losses.problems import BASE, BATCH, CROSS_ENTROPY, gtddp, implicit

X, LABELS = problems.inputs()


def in_batch_negatives(outputs: jax.Array, targets: Any = None) -> jax.Array:
    queries, keys = outputs[:, :2], outputs[:, 2:]
    return CROSS_ENTROPY(queries @ keys.T, jnp.arange(len(outputs)))


def two_views(outputs: jax.Array, targets: Any = None) -> jax.Array:
    """Rows i and i + B/2 belong together."""
    return jnp.square(outputs - jnp.roll(outputs, len(outputs) // 2, axis=0)).sum(-1)


def batch_statistics(outputs: jax.Array, targets: Any = None) -> jax.Array:
    return jnp.square(outputs - outputs.mean(0, keepdims=True)).sum(-1)


COUPLED: tuple[Callable[..., jax.Array], ...] = (
    in_batch_negatives,
    two_views,
    batch_statistics,
    lambda outputs: jnp.full(len(outputs), jnp.square(outputs).sum(-1).mean()),
    lambda outputs: jnp.square(outputs[:, 0]).at[:-1].add(outputs[1:, 0]),
    lambda outputs: jnp.square(outputs[:, 0]).at[1:].add(outputs[:-1, 0]),
)


def are_coupled(losses: Sequence[Callable[..., jax.Array]], outputs: jax.Array) -> list[bool]:
    """Which losses are taken for coupled."""

    @jax.jit
    def decide(outputs: jax.Array) -> list[jax.Array]:
        lines = [loss_along_gradient(loss, outputs) for loss in losses]
        return [samples_are_coupled(line, SampleReductions(len(outputs))) for line in lines]

    return [bool(flag) for flag in decide(outputs)]


@pytest.mark.parametrize(
    ("batch", "dtype"),
    [
        (2, jnp.float64),
        (3, jnp.float64),
        (6, jnp.float32),
        (6, jnp.bfloat16),
        (64, jnp.float32),
    ],
)
def test_coupling_is_found(batch: int, dtype: Any) -> None:
    outputs = jnp.asarray(np.random.default_rng(batch).normal(size=(batch, 4)), dtype)
    assert all(are_coupled(COUPLED, outputs))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_separate_samples_are_never_taken_for_coupled(dtype: Any) -> None:
    """Saturated samples, whose gradients are rounding errors, included."""
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(33, 5)), dtype)
    best = jnp.argmax(outputs, -1)

    def common_maximum(outputs: jax.Array) -> jax.Array:
        """Samples exchange rounding errors, because the maximum cancels."""
        shifted = outputs - outputs.max()
        return jnp.log(jnp.exp(shifted).sum(-1)) - shifted[jnp.arange(33), best]

    # The larger the scale, the smaller the gradients: from 1e-9 to exactly 0.
    losses: list[Callable[..., jax.Array]] = [
        lambda outputs, scale=scale: CROSS_ENTROPY(scale * outputs, best)
        for scale in (1.0, 20.0, 1e4)
    ]
    losses += [
        lambda outputs: jnp.where(best > 1, CROSS_ENTROPY(outputs, best), 0.0),
        lambda outputs: optax.huber_loss(outputs).sum(-1),
        jax.vmap(lambda output: jnp.sort(output) @ output),
        common_maximum,
    ]
    assert not any(are_coupled(losses, outputs))


def assert_is_base_step(updates: Any, loss: Any, params: Any, apply_fn: Any, base: Any) -> None:
    gradient = jax.grad(lambda params: loss(apply_fn(params, X)).mean())(params)
    want, _ = base.update(gradient, base.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), updates, want)


@pytest.mark.parametrize("weighting", problems.WEIGHTINGS)
def test_the_implicit_game_takes_the_base_step(weighting: str) -> None:
    params = problems.mlp_params()
    tx = implicit(BASE, problems.mlp, in_batch_negatives, weighting=weighting)
    updates, state = jax.jit(
        lambda params: tx.update(None, tx.init(params), params, batch=(X, LABELS))
    )(params)
    assert state.report.samples_coupled
    assert state.report.sample_weight_min == state.report.sample_weight_max == 1
    assert_is_base_step(updates, in_batch_negatives, params, problems.mlp, BASE)


@pytest.mark.parametrize("self_response", [False, True])
def test_the_sequential_game_takes_the_base_step(self_response: bool) -> None:
    net = problems.network()
    params = problems.network_params(net, X)
    tx = gtddp(net, in_batch_negatives, gt.curvature.SGD(0.5), self_response=self_response)
    updates, state = jax.jit(
        lambda params: tx.update(None, tx.init(params), params, batch=(X, LABELS))
    )(params)
    assert state.report.samples_coupled
    assert_is_base_step(updates, in_batch_negatives, params, net.apply, optax.sgd(0.5))


@pytest.mark.slow
def test_all_devices_decide_alike() -> None:
    """Only the samples of one device are coupled; a loss may also couple devices."""
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)))

    def one_device(outputs: jax.Array) -> jax.Array:
        mean = outputs.mean() * (jax.lax.axis_index("devices") == 1)
        return jnp.square(outputs - mean).sum(-1)

    def across_devices(outputs: jax.Array) -> jax.Array:
        return jnp.square(outputs - jax.lax.pmean(outputs, "devices")).sum(-1)

    def separate(outputs: jax.Array) -> jax.Array:
        return jnp.square(outputs).sum(-1)

    def decide(loss: Any, outputs: jax.Array) -> jax.Array:
        line = loss_along_gradient(loss, outputs)
        return samples_are_coupled(line, SampleReductions(len(outputs), "devices"))

    for loss, want in ((one_device, True), (across_devices, True), (separate, False)):
        got = jax.vmap(lambda outputs, loss=loss: decide(loss, outputs), axis_name="devices")(
            outputs
        )
        assert got.tolist() == [want, want], loss.__name__


def test_keys_in_the_targets_couple_nothing() -> None:
    """Each query meets all keys, but no other query: the game weights the samples."""

    def against_keys(queries: jax.Array, keys: jax.Array) -> jax.Array:
        return CROSS_ENTROPY(queries @ keys.T, jnp.arange(len(queries)))

    keys = jnp.asarray(np.random.default_rng(3).normal(size=(BATCH, 4)))
    tx = implicit(BASE, problems.mlp, against_keys, weighting="full")
    _, state = problems.run(tx, problems.mlp_params(), (X, keys), steps=1)
    assert not state.report.samples_coupled
    assert state.report.sample_weight_max - state.report.sample_weight_min > 0.05
