"""Eigenbases of factors, and matrices seen in two of them.

A basis of low rank has one more coordinate: the part of a vector outside of it, where the factor
is zero. Tables over coordinates have that one last; an operator treats it as isotropic.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.kronecker.averages import Average, Factor, Window


class Basis(NamedTuple):
    """Orthonormal eigenvectors of a factor.

    Attributes:
        vectors: [groups, width, rank]; a column of zeros stands for one that is not there.
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
    def all_values(self) -> jax.Array:
        """Eigenvalues of all coordinates, [groups, coordinates]."""
        return self.values if self.full else jnp.pad(self.values, ((0, 0), (0, 1)))

    @property
    def sizes(self) -> jax.Array:
        """How many dimensions each coordinate stands for, [groups, coordinates], at least 1."""
        if self.full:
            return jnp.ones_like(self.values)
        live = (self.values > 0).sum(1, keepdims=True)
        rest = jnp.maximum(self.vectors.shape[-2] - live, 1).astype(self.values.dtype)
        return jnp.concatenate([jnp.ones_like(self.values), rest], axis=1)

    @property
    def mean_value(self) -> jax.Array:
        """The mean eigenvalue over all dimensions, [groups]."""
        return self.values.sum(1) / self.vectors.shape[-2]


def blank(groups: int, width: int, rank: int, dtype: jnp.dtype) -> Basis:
    """The basis of a factor that has seen nothing."""
    vectors = jnp.broadcast_to(jnp.eye(width, rank, dtype=dtype), (groups, width, rank))
    return Basis(vectors + 0, jnp.zeros((groups, rank), dtype), jnp.zeros((), jnp.int32))


def eigenbasis(factor: Factor) -> Basis:
    """The eigenvectors of a factor: of the whole space, or of the span of a window."""
    if isinstance(factor, Average):
        values, vectors = jnp.linalg.eigh(factor.value)
        return Basis(vectors, jnp.maximum(values, 0), (values < 0).sum(dtype=jnp.int32))
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
        jnp.einsum("grd,grk->gdk", w, back),
        jnp.where(there, values, 0.0),
        (values < 0).sum(dtype=jnp.int32),
    )


def rescaled(m: jax.Array, left: Basis, right: Basis, scale: jax.Array) -> jax.Array:
    """Multiplies the coordinates of matrices by a table, and turns them back.

    Args:
        m: [groups, rows, columns].
        left: basis of the rows.
        right: basis of the columns.
        scale: [groups, left coordinates, right coordinates].

    Returns:
        [groups, rows, columns].
    """
    rank = left.vectors.shape[-1]
    y = jnp.einsum("gar,gab->grb", left.vectors, m)
    inside = jnp.einsum("gar,grb->gab", left.vectors, _columns_rescaled(y, right, scale[:, :rank]))
    if left.full:
        return inside
    rest = m - jnp.einsum("gar,grb->gab", left.vectors, y)
    return inside + _columns_rescaled(rest, right, scale[:, rank:])


def _columns_rescaled(y: jax.Array, right: Basis, scale: jax.Array) -> jax.Array:
    rank = right.vectors.shape[-1]
    z = jnp.einsum("gab,gbr->gar", y, right.vectors)
    inside = jnp.einsum("gar,gbr->gab", z * scale[..., :rank], right.vectors)
    if right.full:
        return inside
    rest = y - jnp.einsum("gar,gbr->gab", z, right.vectors)
    return inside + rest * scale[..., rank:]


def energies(m: jax.Array, left: Basis, right: Basis) -> jax.Array:
    """Squared lengths of a matrix along the coordinates, [groups, left, right coordinates]."""
    y = jnp.einsum("gar,gab->grb", left.vectors, m)
    inside = _column_energies(y, right)
    if left.full:
        return inside
    rest = m - jnp.einsum("gar,grb->gab", left.vectors, y)
    return jnp.concatenate([inside, _column_energies(rest, right).sum(1, keepdims=True)], axis=1)


def _column_energies(y: jax.Array, right: Basis) -> jax.Array:
    return vector_energies(y.swapaxes(0, 1), right).swapaxes(0, 1)


def vector_energies(v: jax.Array, basis: Basis) -> jax.Array:
    """Squared lengths of vectors [n, groups, width] along the coordinates, [n, groups, ...]."""
    squares = jnp.square(jnp.einsum("ngb,gbr->ngr", v, basis.vectors))
    if basis.full:
        return squares
    rest = jnp.square(v).sum(-1, keepdims=True) - squares.sum(-1, keepdims=True)
    return jnp.concatenate([squares, jnp.maximum(rest, 0)], axis=-1)


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products of tables [groups, left] and [groups, right]: [groups, left, right]."""
    return a[:, :, None] * b[:, None, :]
