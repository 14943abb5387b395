"""Factors are weighted means over batches, as a matrix or as a window of vectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.core.counted_samples import samples_with_gradient
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.curvature.kronecker.running_factors import RunningAverage, empty_factor

DECAY, GROUPS, WIDTH = 0.75, 2, 3
BATCHES = {
    "batches of several sizes": [((True,) * size, 1) for size in (4, 1, 2)],
    "numbers of positions": [((True,) * 2, positions) for positions in (1, 3, 2)],
    "samples without a gradient": [((True, False, True), 2), ((True,), 1), ((False, True), 1)],
}
"""Batches one after the other: which of the samples have a gradient, and the positions."""


@pytest.mark.parametrize("name", BATCHES)
def test_each_batch_has_its_weight_whatever_its_size(name: str) -> None:
    """`E[v v^T]` is the mean over batches of their means, with weights `decay^age`."""
    rng = np.random.default_rng(0)
    batches = [
        (rng.normal(size=(len(keep), positions, GROUPS, WIDTH)), np.array(keep))
        for keep, positions in BATCHES[name]
    ]

    @jax.jit
    def remember(batches: Any) -> Any:
        window: Any = empty_factor(GROUPS, WIDTH, jnp.dtype(float), 16)
        found = []
        for vectors, keep in batches:
            counted = samples_with_gradient(SampleReductions(len(keep)), keep)
            window = window.with_vectors(vectors, DECAY, counted)
            found.append((window.moment_matrix, window.weights.sum()))
        return found

    moments, weight = np.zeros((GROUPS, WIDTH, WIDTH)), 0.0
    for found, (vectors, keep) in zip(remember(batches), batches, strict=True):
        kept = vectors[keep]
        mean = np.einsum("nsgd,nsge->gde", kept, kept) / (len(kept) * kept.shape[1])
        moments = DECAY * moments + (1 - DECAY) * mean
        weight = DECAY * weight + (1 - DECAY)
        np.testing.assert_allclose(found[0], moments / weight, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found[1], weight, rtol=1e-14)


def test_a_matrix_is_the_mean_over_batches_of_their_moments() -> None:
    """Zero before the first, which counts in full from then on."""
    rng, average = np.random.default_rng(0), empty_factor(GROUPS, WIDTH, jnp.dtype(float), None)
    assert isinstance(average, RunningAverage) and average.is_empty
    np.testing.assert_array_equal(average.moment_matrix, np.zeros((GROUPS, WIDTH, WIDTH)))
    seen = np.zeros((0, GROUPS, WIDTH, WIDTH))
    for _ in range(3):
        seen = np.concatenate([seen, rng.normal(size=(1, GROUPS, WIDTH, WIDTH))])
        average = average.with_moments(jnp.asarray(seen[-1]), DECAY)
        assert not average.is_empty
        weights = DECAY ** np.arange(len(seen))[::-1]
        want = np.average(seen, axis=0, weights=weights)
        np.testing.assert_allclose(average.moment_matrix, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("samples", "positions", "rows"), [(7, 1, 4), (8, 8, 8), (9, 1, 8)])
@pytest.mark.parametrize("padding", [0, 3])
def test_a_batch_larger_than_the_window_enters_evenly_spread(
    samples: int, positions: int, rows: int, padding: int
) -> None:
    """One vector of each of `rows` sections, all with the same weight, which is that of a batch."""
    rng = np.random.default_rng(0)
    keep = np.repeat([True, False], [samples, padding])
    rng.shuffle(keep)
    vectors = rng.normal(size=(len(keep), positions, GROUPS, WIDTH))

    @jax.jit
    def remember(vectors: Any) -> Any:
        window: Any = empty_factor(GROUPS, WIDTH, jnp.dtype(float), rows)
        counted = samples_with_gradient(SampleReductions(len(keep)), jnp.asarray(keep))
        return window.with_vectors(vectors, DECAY, counted)

    window = remember(vectors)
    np.testing.assert_allclose(window.weights, np.full(rows, (1 - DECAY) / rows), rtol=1e-6)
    kept = vectors[keep].reshape(-1, GROUPS, WIDTH)
    is_equal = (np.asarray(window.vectors)[:, None] == kept).all((2, 3))
    assert (is_equal.sum(1) == 1).all(), "each is a vector of the batch"
    places = is_equal.argmax(1)
    bounds = np.arange(rows + 1) * len(kept) // rows
    assert (bounds[:-1] <= places).all() and (places < bounds[1:]).all()
    if samples == rows:
        each = np.bincount(places % positions, minlength=positions)
        assert each.max() <= 2, "not the same position of every sample"


@pytest.mark.slow
def test_too_few_samples_with_a_gradient_all_enter() -> None:
    """Padding fills no row of a window that is smaller than the batch."""
    keep = np.array([False, True, False, False, True, False])
    vectors = np.random.default_rng(0).normal(size=(len(keep), 1, GROUPS, WIDTH))
    window: Any = empty_factor(GROUPS, WIDTH, jnp.dtype(float), 4)
    counted = samples_with_gradient(SampleReductions(len(keep)), jnp.asarray(keep))
    window = window.with_vectors(jnp.asarray(vectors), DECAY, counted)
    kept = vectors[keep][:, 0]
    want = np.einsum("ngd,nge->gde", kept, kept) / len(kept)
    np.testing.assert_allclose(window.moment_matrix, want, rtol=1e-12, atol=1e-14)
