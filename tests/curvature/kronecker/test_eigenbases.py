"""Matrices in the coordinates of two bases, one or both of which may have low rank."""

import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.curvature.kronecker import eigenbases
from gtddp_jax.curvature.kronecker.eigenbases import Eigenbasis, EigenTable

GROUPS, ROWS, COLUMNS = 2, 4, 3
RANKS = [(ROWS, COLUMNS), (2, COLUMNS), (ROWS, 1), (2, 1)]


def whole_basis(rng: np.random.Generator, width: int) -> np.ndarray:
    """Orthonormal rows [GROUPS, width, width]."""
    return np.linalg.qr(rng.normal(size=(GROUPS, width, width)))[0]


def part(basis: np.ndarray, rank: int) -> Eigenbasis:
    """The first rows of a basis, as the eigenvectors of a factor."""
    values = np.ones((GROUPS, rank))
    return Eigenbasis(jnp.asarray(basis[:, :rank]), jnp.asarray(values), jnp.zeros((), jnp.int32))


@pytest.mark.parametrize(("row_rank", "column_rank"), RANKS)
def test_coordinates_outside_of_the_bases_share_one_number(row_rank: int, column_rank: int) -> None:
    """As coordinates in complete bases, whose table has that number wherever one factor is zero."""
    rng = np.random.default_rng(0)
    u, v = whole_basis(rng, ROWS), whole_basis(rng, COLUMNS)
    matrix = rng.normal(size=(GROUPS, ROWS, COLUMNS))
    table = np.broadcast_to(rng.uniform(1, 2, (GROUPS, 1, 1)), matrix.shape).copy()
    outside = table[:, 0, 0].copy()
    table[:, :row_rank, :column_rank] = rng.uniform(1, 2, (GROUPS, row_rank, column_rank))
    scale = EigenTable(jnp.asarray(table[:, :row_rank, :column_rank]), jnp.asarray(outside))
    coordinates = u @ matrix @ v.swapaxes(1, 2)
    bases = part(u, row_rank), part(v, column_rank)

    rescaled = eigenbases.rescale_in_eigenbasis(jnp.asarray(matrix), *bases, scale)
    want = u.swapaxes(1, 2) @ (table * coordinates) @ v
    np.testing.assert_allclose(rescaled, want, rtol=1e-12, atol=1e-13)

    squares = eigenbases.squared_coordinates(jnp.asarray(matrix), *bases)
    inside = coordinates[:, :row_rank, :column_rank] ** 2
    np.testing.assert_allclose(squares.inside, inside, rtol=1e-12, atol=1e-13)
    rest = (coordinates**2).sum((1, 2)) - inside.sum((1, 2))
    np.testing.assert_allclose(squares.outside, rest, rtol=1e-12, atol=1e-13)

    energy = eigenbases.weighted_energy(jnp.asarray(matrix), *bases, scale)
    np.testing.assert_allclose(energy, (table * coordinates**2).sum(), rtol=1e-12)
