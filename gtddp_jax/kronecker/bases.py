"""Eigenbases of factors, and matrices seen in two of them.

A basis may be of low rank, where it spans what a window of vectors spans; the factor is zero
outside of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.kronecker.averages import Average, Factor, Window


class Basis(NamedTuple):
    """Orthonormal eigenvectors of a factor.

    They are rows: products with a tall matrix are nearly twice as fast along rows of the basis.

    Attributes:
        vectors: [groups, rank, width]; a row of zeros stands for one that is not there.
        values: their eigenvalues, at least 0, [groups, rank].
        clamped: int32, how many eigenvalues were negative and have been set to 0.
    """

    vectors: jax.Array
    values: jax.Array
    clamped: jax.Array

    @property
    def full(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.vectors.shape[-1] == self.vectors.shape[-2]

    @property
    def live(self) -> jax.Array:
        """How many eigenvectors there are, [groups]."""
        rank = self.vectors.shape[-2]
        return jnp.full(self.values.shape[:1], rank) if self.full else (self.values > 0).sum(1)

    @property
    def mean_value(self) -> jax.Array:
        """The mean eigenvalue over all dimensions, [groups]."""
        return self.values.sum(1) / self.vectors.shape[-1]


def blank(groups: int, width: int, rank: int, dtype: jnp.dtype) -> Basis:
    """The basis of a factor that has seen nothing."""
    vectors = jnp.broadcast_to(jnp.eye(rank, width, dtype=dtype), (groups, rank, width))
    return Basis(vectors + 0, jnp.zeros((groups, rank), dtype), jnp.zeros((), jnp.int32))


def eigenbasis(factor: Factor) -> Basis:
    """The eigenvectors of a factor: of the whole space, or of the span of a window."""
    if isinstance(factor, Average):
        values, vectors = jnp.linalg.eigh(factor.value)
        rows = vectors.swapaxes(1, 2)
        return Basis(rows, jnp.maximum(values, 0), (values < 0).sum(dtype=jnp.int32))
    return _of_window(factor)


def _of_window(window: Window) -> Basis:
    """From the Gram matrix of the rows: eigenvectors `W^T v / sqrt(value)`."""
    w = window.scaled
    rows = w.shape[1]
    values, vectors = jnp.linalg.eigh(jnp.einsum("grd,gsd->grs", w, w))
    largest = values[:, -1:]
    there = values > rows * jnp.finfo(values.dtype).eps * largest
    values_or_one = jnp.where(there, values, 1.0)
    back = vectors * jnp.where(there, 1 / jnp.sqrt(values_or_one), 0.0)[:, None, :]
    return Basis(
        jnp.einsum("grk,grd->gkd", back, w),
        jnp.where(there, values, 0.0),
        (values < 0).sum(dtype=jnp.int32),
    )


class Table(NamedTuple):
    """A number for each coordinate of a matrix, and one for all that lies outside of them.

    Outside is where at least one of the factors is zero. All of it belongs to one eigenvalue of
    their product, zero, so a table that does not depend on the choice of eigenvectors has one
    number there. Between two full bases nothing lies outside.

    Attributes:
        inside: [groups, left rank, right rank].
        outside: [groups].
    """

    inside: jax.Array
    outside: jax.Array


def _everything(left: Basis, right: Basis) -> bool:
    return left.full and right.full


def coordinates(m: jax.Array, left: Basis, right: Basis) -> jax.Array:
    """A matrix [groups, rows, columns] in two bases, [groups, left rank, right rank]."""
    y = jnp.einsum("gra,gab->grb", left.vectors, m)
    return jnp.einsum("grb,gsb->grs", y, right.vectors)


def rescaled(m: jax.Array, left: Basis, right: Basis, scale: Table) -> jax.Array:
    """Multiplies the coordinates of a matrix by a table, and turns them back.

    Args:
        m: [groups, rows, columns].
        left: basis of the rows.
        right: basis of the columns.
        scale: the table.

    Returns:
        [groups, rows, columns].
    """
    outside = scale.outside[:, None, None]
    factor = scale.inside if _everything(left, right) else scale.inside - outside
    y = factor * coordinates(m, left, right)
    back = jnp.einsum("grs,gsb->grb", y, right.vectors)
    inside = jnp.einsum("gra,grb->gab", left.vectors, back)
    return inside if _everything(left, right) else inside + outside * m


def energies(m: jax.Array, left: Basis, right: Basis) -> Table:
    """Squared lengths of a matrix along the coordinates and outside of them."""
    inside = jnp.square(coordinates(m, left, right))
    if _everything(left, right):
        return Table(inside, jnp.zeros_like(inside[:, 0, 0]))
    outside = jnp.square(m).sum((1, 2)) - inside.sum((1, 2))
    return Table(inside, jnp.maximum(outside, 0))


def weighted_energy(m: jax.Array, left: Basis, right: Basis, scale: Table) -> jax.Array:
    """`m . rescaled(m)`, over all groups."""
    found = energies(m, left, right)
    return (found.inside * scale.inside).sum() + (found.outside * scale.outside).sum()


class VectorEnergies(NamedTuple):
    """Squared lengths of vectors [n, groups, width].

    Attributes:
        inside: along each eigenvector, [n, groups, rank].
        total: of the whole vector, [n, groups].
    """

    inside: jax.Array
    total: jax.Array


def vector_energies(v: jax.Array, basis: Basis) -> VectorEnergies:
    """Squared lengths of vectors [n, groups, width] along a basis."""
    squares = jnp.square(jnp.einsum("ngb,grb->ngr", v, basis.vectors))
    total = squares.sum(-1) if basis.full else jnp.square(v).sum(-1)
    return VectorEnergies(squares, total)


def dimensions(left: Basis, right: Basis) -> Table:
    """How many dimensions each entry of a table stands for, at least 1."""
    inside = jnp.ones((*left.values.shape, right.values.shape[-1]), left.values.dtype)
    size = left.vectors.shape[-1] * right.vectors.shape[-1]
    outside = jnp.maximum(size - left.live * right.live, 1)
    return Table(inside, outside.astype(left.values.dtype))


def eigenvalues(left: Basis, right: Basis) -> Table:
    """The products of eigenvalues; zero outside."""
    inside = outer(left.values, right.values)
    return Table(inside, jnp.zeros_like(inside[:, 0, 0]))


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products of tables [groups, left] and [groups, right]: [groups, left, right]."""
    return a[:, :, None] * b[:, None, :]
