"""Eigenbases of factors, and matrices in the coordinates of two of them.

A basis may have low rank: it then spans what a window of vectors spans, and the factor is zero
outside of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.curvature.kronecker.running_factors import Factor, VectorWindow


class Eigenbasis(NamedTuple):
    """Orthonormal eigenvectors of a factor.

    Eigenvectors are rows: products with a tall matrix are nearly twice as fast along rows.

    Attributes:
        vectors: [groups, rank, width]; rows of zeros stand for missing eigenvectors.
        values: the eigenvalues, at least 0, [groups, rank].
        clamped: int32, how many eigenvalues were negative and have been set to 0.
    """

    vectors: jax.Array
    values: jax.Array
    clamped: jax.Array

    @property
    def is_complete(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.vectors.shape[-1] == self.vectors.shape[-2]

    @property
    def effective_rank(self) -> jax.Array:
        """The number of eigenvectors that are not missing, [groups]."""
        rank = self.vectors.shape[-2]
        return (
            jnp.full(self.values.shape[:1], rank) if self.is_complete else (self.values > 0).sum(1)
        )

    @property
    def mean_eigenvalue(self) -> jax.Array:
        """The mean eigenvalue over all dimensions, [groups]."""
        return self.values.sum(1) / self.vectors.shape[-1]


def blank_eigenbasis(groups: int, width: int, rank: int, dtype: jnp.dtype) -> Eigenbasis:
    """The basis of a factor before its first batch."""
    vectors = jnp.broadcast_to(jnp.eye(rank, width, dtype=dtype), (groups, rank, width))
    # The sum makes a buffer of its own: a broadcast array may be aliased, and not be donated.
    return Eigenbasis(vectors + 0, jnp.zeros((groups, rank), dtype), jnp.zeros((), jnp.int32))


def compute_eigenbasis(factor: Factor) -> Eigenbasis:
    """The eigenvectors of a factor: of the whole space, or of the span of a window."""
    if isinstance(factor, VectorWindow):
        return _window_eigenbasis(factor)
    values, vectors = jnp.linalg.eigh(factor.moment_matrix)
    # Rounding makes zero eigenvalues of a moment matrix slightly negative.
    negative = (values < 0).sum(dtype=jnp.int32)
    # `eigh` returns eigenvectors as columns.
    return Eigenbasis(vectors.swapaxes(1, 2), jnp.maximum(values, 0), negative)


def _window_eigenbasis(window: VectorWindow) -> Eigenbasis:
    """From the Gram matrix of the rows: eigenvectors `W^T v / sqrt(value)`."""
    w = window.scaled_vectors
    rows = w.shape[1]
    # The Gram matrix is [rows, rows], which is what makes windows cheap.
    values, vectors = jnp.linalg.eigh(jnp.einsum("grd,gsd->grs", w, w))
    # Below this bound an eigenvalue is rounding error, and its eigenvector is arbitrary.
    bound = rows * jnp.finfo(values.dtype).eps * values[:, -1:]
    present = values > bound
    # `where` evaluates both branches: the unused one must not divide by zero.
    safe_values = jnp.where(present, values, 1.0)
    scaled = vectors * jnp.where(present, 1 / jnp.sqrt(safe_values), 0.0)[:, None, :]
    return Eigenbasis(
        jnp.einsum("grk,grd->gkd", scaled, w),
        jnp.where(present, values, 0.0),
        (values < 0).sum(dtype=jnp.int32),
    )


class EigenTable(NamedTuple):
    """One number per coordinate of a matrix, and one for everything outside of the coordinates.

    Outside is where at least one of the two factors is zero. All of it belongs to the eigenvalue 0
    of their product, so a table that does not depend on the choice of eigenvectors has one number
    there. Between two complete bases nothing is outside.

    Attributes:
        inside: [groups, row rank, column rank].
        outside: [groups].
    """

    inside: jax.Array
    outside: jax.Array


def _are_complete(row_basis: Eigenbasis, column_basis: Eigenbasis) -> bool:
    return row_basis.is_complete and column_basis.is_complete


def to_eigenbasis(matrix: jax.Array, row_basis: Eigenbasis, column_basis: Eigenbasis) -> jax.Array:
    """The coordinates of a matrix [groups, rows, columns]: [groups, row rank, column rank]."""
    half_rotated = jnp.einsum("gra,gab->grb", row_basis.vectors, matrix)
    return jnp.einsum("grb,gsb->grs", half_rotated, column_basis.vectors)


def rescale_in_eigenbasis(
    matrix: jax.Array, row_basis: Eigenbasis, column_basis: Eigenbasis, scale: EigenTable
) -> jax.Array:
    """Multiplies the coordinates of a matrix by a table and rotates the result back.

    Args:
        matrix: [groups, rows, columns].
        row_basis: eigenbasis of the rows.
        column_basis: eigenbasis of the columns.
        scale: the table.

    Returns:
        [groups, rows, columns].
    """
    complete = _are_complete(row_basis, column_basis)
    outside = scale.outside[:, None, None]
    # Everything is multiplied by `outside`, and the coordinates by what is missing to `inside`.
    factor = scale.inside if complete else scale.inside - outside
    coordinates = factor * to_eigenbasis(matrix, row_basis, column_basis)
    half_rotated = jnp.einsum("grs,gsb->grb", coordinates, column_basis.vectors)
    inside = jnp.einsum("gra,grb->gab", row_basis.vectors, half_rotated)
    return inside if complete else inside + outside * matrix


def squared_coordinates(
    matrix: jax.Array, row_basis: Eigenbasis, column_basis: Eigenbasis
) -> EigenTable:
    """The squared coordinates of a matrix, and its squared norm outside of them."""
    inside = jnp.square(to_eigenbasis(matrix, row_basis, column_basis))
    if _are_complete(row_basis, column_basis):
        return EigenTable(inside, jnp.zeros_like(inside[:, 0, 0]))
    # By Pythagoras; rounding may make the difference negative.
    outside = jnp.square(matrix).sum((1, 2)) - inside.sum((1, 2))
    return EigenTable(inside, jnp.maximum(outside, 0))


def weighted_energy(
    matrix: jax.Array, row_basis: Eigenbasis, column_basis: Eigenbasis, scale: EigenTable
) -> jax.Array:
    """The inner product of a matrix with its `rescale_in_eigenbasis`, over all groups."""
    squares = squared_coordinates(matrix, row_basis, column_basis)
    return (squares.inside * scale.inside).sum() + (squares.outside * scale.outside).sum()


class VectorEnergies(NamedTuple):
    """Squared lengths of vectors [n, groups, width].

    Attributes:
        inside: along each eigenvector, [n, groups, rank].
        total: of the whole vector, [n, groups].
    """

    inside: jax.Array
    total: jax.Array


def vector_energies(vectors: jax.Array, basis: Eigenbasis) -> VectorEnergies:
    """Squared lengths of vectors [n, groups, width] along the eigenvectors of a basis."""
    squares = jnp.square(jnp.einsum("ngb,grb->ngr", vectors, basis.vectors))
    # A complete basis preserves lengths, so the squares need no second pass.
    total = squares.sum(-1) if basis.is_complete else jnp.square(vectors).sum(-1)
    return VectorEnergies(squares, total)


def table_dimensions(row_basis: Eigenbasis, column_basis: Eigenbasis) -> EigenTable:
    """The number of dimensions that each entry of a table stands for, at least 1."""
    values = row_basis.values
    inside = jnp.ones((*values.shape, column_basis.values.shape[-1]), values.dtype)
    # All dimensions but those of the coordinates.
    size = row_basis.vectors.shape[-1] * column_basis.vectors.shape[-1]
    outside = jnp.maximum(size - row_basis.effective_rank * column_basis.effective_rank, 1)
    return EigenTable(inside, outside.astype(values.dtype))


def kronecker_eigenvalues(row_basis: Eigenbasis, column_basis: Eigenbasis) -> EigenTable:
    """The eigenvalues of `A (x) B`: products of theirs, zero outside."""
    inside = outer_products(row_basis.values, column_basis.values)
    return EigenTable(inside, jnp.zeros_like(inside[:, 0, 0]))


def outer_products(row_values: jax.Array, column_values: jax.Array) -> jax.Array:
    """Products of tables [groups, rows] and [groups, columns]: [groups, rows, columns]."""
    return row_values[:, :, None] * column_values[:, None, :]
