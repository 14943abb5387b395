"""No evidence is no trust: what few samples agree on by construction counts for nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core.counted_samples import samples_with_gradient
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.implicit.weighting.tail import adjusted_correlation
from tests.implicit import models
from tests.robustness.samples.games import (
    BATCH,
    DENSE,
    GAMES,
    IMAGES,
    KEEP,
    LABELS,
    MOMENTUM,
    Player,
    cross_entropy,
    masked_cross_entropy,
)

TAIL = GAMES["tail"]


def adjusted(first: np.ndarray, second: np.ndarray, keep: np.ndarray) -> float:
    counted = samples_with_gradient(SampleReductions(len(first)), jnp.asarray(keep))
    return float(adjusted_correlation(jnp.asarray(first), jnp.asarray(second), counted))


def test_the_correlation_is_adjusted_for_its_degrees_of_freedom() -> None:
    """The square root of the adjusted coefficient of determination of a regression line."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=BATCH)
    for noise in (0.3, -0.3, 3.0):
        second = np.sign(noise) * first + abs(noise) * rng.normal(size=BATCH)
        for keep in (np.full(BATCH, True), KEEP, np.arange(BATCH) < 3):
            n, x, y = keep.sum(), first[keep], second[keep]
            line = np.polyval(np.polyfit(x, y, 1), x)
            unexplained = (
                ((y - line) ** 2).sum() / (n - 2) / (((y - y.mean()) ** 2).sum() / (n - 1))
            )
            want = np.sign(np.corrcoef(x, y)[0, 1]) * np.sqrt(max(0.0, 1 - unexplained))
            assert adjusted(first, second, keep) == pytest.approx(want, rel=1e-12, abs=1e-12)
    for count in (0, 1, 2):
        assert adjusted(first, first, np.arange(BATCH) < count) == 0
    assert adjusted(first, first, KEEP) == pytest.approx(1, abs=1e-12)
    assert adjusted(first, np.ones(BATCH), KEEP) == 0


@pytest.mark.parametrize("size", [1, 2])
def test_small_batches_leave_the_base_alone(size: int) -> None:
    """`Tail` learns nothing from one or two samples: its weights stay 1."""
    player = Player(TAIL, cross_entropy)
    for step in range(4):
        params, base = player.params, player.state.base
        rows = np.arange(size) + step
        updates = player.step(IMAGES[rows], LABELS[rows])
        report, memory = player.state.report, player.state.weighting
        assert (report.sample_weight_min, report.sample_weight_max) == (1, 1)
        assert memory.pending and not np.any([memory.kappa, memory.correlation])

        def mean_loss(params: Any, rows: np.ndarray = rows) -> jax.Array:
            outputs = DENSE.apply(params, jnp.asarray(IMAGES[rows]))
            return cross_entropy(outputs, jnp.asarray(LABELS[rows])).mean()

        want, _ = MOMENTUM.update(jax.grad(mean_loss)(params), base, params)
        for got, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(got, leaf, rtol=0, atol=1e-12)


def test_what_was_measured_outlives_a_small_batch() -> None:
    """The last batch of an epoch may have one sample, and its calibration is made up for."""
    player = Player(TAIL, masked_cross_entropy)
    player.step(IMAGES, (LABELS, KEEP))
    measured = player.state.weighting
    assert not measured.pending and measured.correlation[0] != 0
    player.step(IMAGES, (LABELS, np.arange(BATCH) < 2))
    kept = player.state.weighting
    assert kept.pending
    for name in ("kappa", "kappa_momentum", "correlation", "chosen"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(measured, name))
    player.step(IMAGES, (LABELS, KEEP))
    assert not player.state.weighting.pending
    assert player.state.weighting.kappa[0] != measured.kappa[0]


def test_a_measured_correlation_of_zero_is_remembered() -> None:
    """It is evidence against the tail, and the next calibration does not replace it."""
    p = models.classification(batch=8)
    everything = gt.weighting.Tail({"hidden": True, "out": True}, response=1.0, memory=0.75)
    tx: Any = gt.implicit(optax.sgd(0.1), p.apply_fn, p.loss, weighting=everything)
    state = tx.init(p.params)
    measured = state.weighting._replace(kappa=state.weighting.kappa.at[0].set(1.0))
    _, state = jax.jit(lambda s: tx.update(None, s, p.params, batch=(p.x, p.y)))(
        state._replace(weighting=measured)
    )
    assert state.weighting.correlation[0] == pytest.approx(0.25)


@pytest.mark.parametrize("weighting", ["product", "newton"])
def test_other_weightings_need_no_evidence(weighting: str) -> None:
    """They predict with the whole network: a single sample has its full weight."""
    player = Player(GAMES[weighting], cross_entropy)
    for _ in range(2):
        player.step(IMAGES[:1], LABELS[:1])
    report = player.state.report
    assert report.sample_weight_max < 0.999 and report.sample_weight_std == 0
