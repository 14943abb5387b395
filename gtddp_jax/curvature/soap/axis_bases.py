"""An orthonormal basis for each axis of an array: Shampoo's, of the array's Gram matrices.

| symbol    | meaning                                                  | here             |
|-----------|----------------------------------------------------------|------------------|
| L, R      | running means of `G G^T` and `G^T G`                     | Gram matrices    |
| Q_L, Q_R  | their eigenvectors, as columns                           | `AxisBases`      |
| G'        | `Q_L^T G Q_R`                                            | `to_axis_bases`  |

An array with more axes, such as a convolution's kernel, has one matrix per axis. Axes without a
basis keep their coordinates.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp

AxisBases: TypeAlias = tuple[jax.Array, ...]
"""One matrix [n, n] for each axis with a basis, in the order of `axes_with_basis`."""


def axes_with_basis(shape: tuple[int, ...], largest: int) -> tuple[int, ...]:
    """The axes that get a basis: all up to a size, of arrays with at least two axes."""
    # A vector's Gram matrix has rank one; the published code leaves vectors to Adam.
    return tuple(axis for axis, size in enumerate(shape) if len(shape) > 1 and size <= largest)


def to_axis_bases(array: jax.Array, axes: tuple[int, ...], bases: AxisBases) -> jax.Array:
    """The coordinates of an array: each axis multiplied by the transpose of its basis."""
    for axis, basis in zip(axes, bases, strict=True):
        array = jnp.moveaxis(jnp.tensordot(array, basis, (axis, 0)), -1, axis)
    return array


def from_axis_bases(array: jax.Array, axes: tuple[int, ...], bases: AxisBases) -> jax.Array:
    """The array with these coordinates."""
    transposed = tuple(basis.T for basis in bases)
    return to_axis_bases(array, axes, transposed)


def gram_matrix(array: jax.Array, axis: int) -> jax.Array:
    """The products of the slices along an axis, summed over all other axes: [n, n]."""
    others = [other for other in range(array.ndim) if other != axis]
    return jnp.tensordot(array, array, (others, others))


def eigenvector_columns(gram: jax.Array) -> jax.Array:
    """The eigenvectors of a Gram matrix, largest eigenvalue first."""
    return jnp.linalg.eigh(gram)[1][:, ::-1]


def power_iteration_order(gram: jax.Array, basis: jax.Array) -> jax.Array:
    """The columns of a basis by their Rayleigh quotients, largest first."""
    return jnp.argsort((basis * (gram @ basis)).sum(0), descending=True)


def power_iteration(gram: jax.Array, basis: jax.Array, order: jax.Array) -> jax.Array:
    """One step of power iteration from the columns in this order, orthonormalized by QR."""
    return jnp.linalg.qr(gram @ basis[:, order])[0]
