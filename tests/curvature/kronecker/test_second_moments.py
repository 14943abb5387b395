"""Second moments of gradients in two bases, one or both of which may have low rank."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.core.counted_samples import samples_with_gradient
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.curvature.kronecker.eigenbases import Eigenbasis
from gtddp_jax.curvature.kronecker.factor_statistics import PlayerObservation
from gtddp_jax.curvature.kronecker.matrix_layouts import DenseLayout
from gtddp_jax.curvature.kronecker.second_moments import (
    batch_gradient_moments,
    sample_gradient_moments,
)
from gtddp_jax.network.protocol import PlayerTape
from gtddp_jax.network.sample_gradients import compute_sample_gradients

BATCH, ROWS, COLUMNS = 4, 3, 2
LAYER = nn.Dense(COLUMNS, use_bias=False)
KEEP = np.array([True, False, True, True])
"""The samples that have a gradient."""

RANKS = [(ROWS, COLUMNS), (1, COLUMNS), (ROWS, 1), (2, 1)]


@jax.jit
def library(x: Any, g: Any, alpha: Any, mean: Any, bases: Any) -> Any:
    """Moments of the mean gradient and of those of the samples, for each pair of bases."""
    params: Any = {"kernel": jnp.zeros((ROWS, COLUMNS))}
    apply: Any = lambda params, x: LAYER.apply({"params": params}, x)  # noqa: E731
    gradients = compute_sample_gradients(LAYER, apply, params, x, g, feedback=True)
    counted = samples_with_gradient(SampleReductions(BATCH), jnp.asarray(KEEP))
    observation = PlayerObservation(
        DenseLayout.from_module(LAYER, params),
        {"kernel": mean},
        PlayerTape(x, g, gradients),
        alpha,
        counted,
    )
    return [
        (batch_gradient_moments(observation, *pair), sample_gradient_moments(observation, *pair))
        for pair in bases
    ]


def orthonormal(rng: np.random.Generator, width: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(width, width)))[0]


def part(basis: np.ndarray, rank: int) -> Eigenbasis:
    """The first rows of a basis, as the eigenvectors of a factor."""
    values = jnp.asarray(np.ones((1, rank)))
    return Eigenbasis(jnp.asarray(basis[None, :rank]), values, jnp.asarray(np.int32(0)))


@pytest.mark.parametrize("positions", [(), (2,)])
def test_moments_are_mean_squares_of_coordinates(positions: tuple[int, ...]) -> None:
    """Each coordinate inside has its own; all others share the mean of theirs.

    They are those of a batch of the n samples with a gradient, with a loss multiplied by n / B.
    """
    rng = np.random.default_rng(0)
    x, g = (rng.normal(size=(BATCH, *positions, width)) for width in (ROWS, COLUMNS))
    alpha = np.where(KEEP, rng.uniform(0.5, 1.5, BATCH), 0.0)
    a, b = (vectors.reshape(BATCH, -1, vectors.shape[-1]) for vectors in (x, g))
    each = np.einsum("b,bsp,bsq->bpq", alpha, a, b)
    u, v = orthonormal(rng, ROWS), orthonormal(rng, COLUMNS)
    bases = [(part(u, rows), part(v, columns)) for rows, columns in RANKS]
    kept, count = KEEP.mean() * each[KEEP], KEEP.sum()
    squares = count * (u @ kept.mean(0) @ v.T) ** 2, ((u @ kept @ v.T) ** 2).mean(0)
    for found, (rows, columns) in zip(
        library(x, g, alpha, each.mean(0), bases), RANKS, strict=True
    ):
        for table, square in zip(found, squares, strict=True):
            inside = square[:rows, :columns]
            np.testing.assert_allclose(table.inside[0], inside, rtol=1e-12, atol=1e-14)
            others = ROWS * COLUMNS - rows * columns
            want = (square.sum() - inside.sum()) / others if others else 0.0
            np.testing.assert_allclose(table.outside[0], want, rtol=1e-12, atol=1e-14)
