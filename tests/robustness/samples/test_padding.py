"""Samples without a gradient count nowhere.

A batch of B samples of which n have a gradient is the batch of these n samples alone, with their
loss multiplied by n / B.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.robustness.samples.games import (
    BATCH,
    GAMES,
    IMAGES,
    IMPLICIT,
    KEEP,
    KRONECKER,
    LABELS,
    REAL,
    Game,
    Player,
    cross_entropy,
    masked_cross_entropy,
)

Tree = Any


def assert_equal(got: Tree, want: Tree, rtol: float = 0.0, atol: float = 1e-12) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def statistics(state: Any) -> Tree:
    """The state, without eigenvectors, which are known up to their signs only."""
    if not hasattr(state, "curvature"):
        return state.base
    return [
        [(p.input_factor, p.output_factor, p.moments) for p in stage.factors.players.values()]
        if hasattr(stage, "factors")
        else stage
        for stage in state.curvature
    ]


def factors(state: Any) -> Tree:
    return [[player[:2] for player in stage] for stage in statistics(state)]


@pytest.mark.parametrize("name", quick_cases(GAMES, "sketch", "adam, self-response", "ekfac"))
def test_padding_changes_nothing(name: str) -> None:
    padded = Player(GAMES[name], masked_cross_entropy)
    alone = Player(GAMES[name], cross_entropy)
    rng = np.random.default_rng(1)
    for step in range(3):
        # Another part of the batch is padding in each step; what it holds does not matter.
        keep = np.roll(KEEP, step)
        x = np.where(keep[:, None, None], IMAGES, rng.normal(size=IMAGES.shape))
        got = padded.step(x, (LABELS, keep))
        want = alone.step(IMAGES[keep], LABELS[keep])
        assert_equal(got, want)
    assert_equal(statistics(padded.state), statistics(alone.state))
    report = alone.state.report
    assert report.sample_weight_max - report.sample_weight_min > 1e-3 and not report.skipped
    # The report has single precision.
    assert_equal(padded.state.report, report, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["sketch", "kfac", "ekfac, per example"])
def test_without_the_scale_padding_scales_the_loss(name: str) -> None:
    """A plain masked loss: the real samples alone, their loss multiplied by n / B."""

    def masked(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
        labels, mask = targets
        return jnp.where(mask, cross_entropy(outputs, labels), 0.0)

    def scaled(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return len(REAL) / BATCH * cross_entropy(outputs, labels)

    padded, alone = Player(GAMES[name], masked), Player(GAMES[name], scaled)
    for _ in range(3):
        got = padded.step(IMAGES, (LABELS, KEEP))
        assert_equal(got, alone.step(IMAGES[REAL], LABELS[REAL]))
    assert_equal(padded.state.report, alone.state.report, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", GAMES)
def test_a_batch_of_padding_is_neutral(name: str) -> None:
    player = Player(GAMES[name], masked_cross_entropy)
    for keep in (KEEP, np.zeros(BATCH, bool)):
        params, before = player.params, player.state
        updates = player.step(IMAGES, (LABELS, keep))
    report = player.state.report
    assert not report.skipped and report.skipped_steps == 0 and report.loss == 0
    weights = report.sample_weight_min, report.sample_weight_mean, report.sample_weight_max
    assert weights == (1, 1, 1) and not report.sample_weight_std.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(player.state))
    if name in KRONECKER:
        assert_equal(factors(player.state), factors(before), atol=0)
    if name in IMPLICIT:
        # The step of the base for a zero gradient: momentum and weight decay.
        zeros = jax.tree.map(np.zeros_like, params)
        want, _ = player.game.base.update(zeros, before.base, params)
        assert_equal(updates, want)


@pytest.mark.parametrize("name", ["sketch", "full"])
def test_a_single_sample_has_its_weight(name: str) -> None:
    player = Player(GAMES[name], cross_entropy)
    for _ in range(2):
        player.step(IMAGES[:1], LABELS[:1])
    report = player.state.report
    assert report.sample_weight_max < 0.999 and report.sample_weight_std == 0


@pytest.mark.parametrize("mode", ["running", "per_example"])
def test_moments_outlast_a_batch_of_padding(mode: str) -> None:
    schedule: dict[str, Any] = {"factors_every": 1, "refresh_every": 4, "stagger": False}
    game = Game(lambda net, loss: gt.ekfac(net, loss, 0.1, mode=mode, **schedule))
    player = Player(game, masked_cross_entropy)
    for _ in range(2):
        player.step(IMAGES, (LABELS, KEEP))
    before = player.state
    player.step(IMAGES, (LABELS, np.zeros(BATCH, bool)))
    assert_equal(statistics(player.state), statistics(before), atol=0)


@pytest.mark.parametrize("name", KRONECKER)
def test_bases_are_those_of_the_first_batch_with_a_gradient(name: str) -> None:
    """A first batch of padding alone leaves no bases to act in for many steps."""
    late, fresh = (Player(GAMES[name], masked_cross_entropy) for _ in range(2))
    late.step(IMAGES, (LABELS, np.zeros(BATCH, bool)))
    assert_equal(late.step(IMAGES, (LABELS, KEEP)), fresh.step(IMAGES, (LABELS, KEEP)))


@pytest.mark.slow
def test_batch_normalization_with_the_mask_leaves_padding_out() -> None:
    """Normalization couples samples in the network, where only the mask of the layer can help."""

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
            x = nn.Dense(4, param_dtype=x.dtype)(x)
            x = nn.BatchNorm(use_running_average=False, dtype=x.dtype)(x, mask=mask[:, None])
            return nn.Dense(3, param_dtype=x.dtype)(jnp.tanh(x))

    x, labels, keep = (jnp.asarray(array) for array in (IMAGES[:, 0], LABELS, KEEP))
    model = Normed()
    variables = model.init(jax.random.key(0), x, keep)

    def apply_fn(params: Tree, inputs: Any) -> tuple[jax.Array, Tree]:
        return model.apply({"params": params}, *inputs, mutable=["batch_stats"])

    def steps(loss: Any, batch: Any) -> tuple[Tree, Any]:
        tx: Any = gt.implicit(
            optax.sgd(0.3, momentum=0.9),
            apply_fn,
            loss,
            has_aux=True,
            aux={"batch_stats": variables["batch_stats"]},
        )

        @jax.jit
        def step(params: Tree, state: Any) -> tuple[Tree, Any]:
            updates, state = tx.update(None, state, params, batch=batch)
            return optax.apply_updates(params, updates), state

        params = variables["params"]
        state = tx.init(params)
        for _ in range(2):
            params, state = step(params, state)
        return params, state

    got, state = steps(masked_cross_entropy, ((x, keep), (labels, keep)))
    want, alone = steps(cross_entropy, ((x[keep], keep[keep]), labels[keep]))
    assert alone.report.sample_weight_max - alone.report.sample_weight_min > 1e-3
    assert_equal((got, state.aux), (want, alone.aux), atol=1e-6)
    assert_equal(state.report, alone.report, rtol=1e-5, atol=1e-6)
