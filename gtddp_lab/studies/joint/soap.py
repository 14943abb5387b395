"""SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's factors, for matrices.

| symbol  | meaning                                                 | shape            |
|---------|---------------------------------------------------------|------------------|
| G       | gradient of one matrix                                  | [n, m]           |
| L, R    | running means of `G G^T` and `G^T G`                    | [n, n], [m, m]   |
| U, V    | their approximate eigenvectors                          | [n, n], [m, m]   |
| m, v    | Adam's moments: of G, and of the squares of `U^T G V`   | [n, m]           |

Vectors and numbers get Adam's step. As in the authors' code, eigenvectors follow by one step of
orthogonal iteration with each refresh, and the first gradient only starts the factors.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SoapMatrix(NamedTuple):
    """State of one matrix, see above; of anything else only the moments are used.

    Attributes:
        mean: m.
        square: v.
        left: L.
        right: R.
        left_basis: U.
        right_basis: V.
    """

    mean: jax.Array
    square: jax.Array
    left: jax.Array
    right: jax.Array
    left_basis: jax.Array
    right_basis: jax.Array


class SoapState(NamedTuple):
    """State of `scale_by_soap`.

    Attributes:
        gradients: int32, number of gradients so far.
        leaves: state of each array of the parameters, in the order of `jax.tree.leaves`.
    """

    gradients: jax.Array
    leaves: list[SoapMatrix]


def refresh_basis(factor: jax.Array, basis: jax.Array, square: jax.Array, axis: int) -> Any:
    """One step of orthogonal iteration, with the moments v in the order of the eigenvalues."""
    estimates = jnp.einsum("ij,ik,kj->j", basis, factor, basis)
    order = jnp.argsort(-estimates)
    basis, square = basis[:, order], jnp.take(square, order, axis=axis)
    return jnp.linalg.qr(factor @ basis)[0], square


def soap_matrix_step(
    gradient: jax.Array,
    state: SoapMatrix,
    count: jax.Array,
    decays: tuple[float, float],
    every: int,
) -> tuple[jax.Array, SoapMatrix]:
    """The scaled gradient and the next state."""
    b1, b2 = decays
    matrix = gradient if gradient.ndim == 2 else gradient.reshape(-1, 1)
    is_matrix = gradient.ndim == 2

    def rotate(array: jax.Array, back: bool = False) -> jax.Array:
        if not is_matrix:
            return array
        if back:
            return state.left_basis @ array @ state.right_basis.T
        return state.left_basis.T @ array @ state.right_basis

    mean = b1 * state.mean + (1 - b1) * matrix
    square = b2 * state.square + (1 - b2) * jnp.square(rotate(matrix))
    corrected = rotate(mean) / (1 - b1**count)
    step = rotate(corrected / (jnp.sqrt(square / (1 - b2**count)) + 1e-8), back=True)
    first = count == 0
    mean, square = (
        jnp.where(first, old, new) for old, new in ((state.mean, mean), (state.square, square))
    )
    step = jnp.where(first, 0.0, step)
    if not is_matrix:
        return step.reshape(gradient.shape), state._replace(mean=mean, square=square)
    left = b2 * state.left + (1 - b2) * matrix @ matrix.T
    right = b2 * state.right + (1 - b2) * matrix.T @ matrix

    def start() -> tuple[jax.Array, ...]:
        return jnp.linalg.eigh(left)[1][:, ::-1], jnp.linalg.eigh(right)[1][:, ::-1], square

    def follow() -> tuple[jax.Array, ...]:
        left_basis, moved = refresh_basis(left, state.left_basis, square, 0)
        right_basis, moved = refresh_basis(right, state.right_basis, moved, 1)
        return left_basis, right_basis, moved

    def keep() -> tuple[jax.Array, ...]:
        return state.left_basis, state.right_basis, square

    choice = jnp.where(first, 0, jnp.where(count % every == 0, 1, 2))
    left_basis, right_basis, square = jax.lax.switch(choice, [start, follow, keep])
    return step, SoapMatrix(mean, square, left, right, left_basis, right_basis)


def scale_by_soap(b1: float = 0.95, b2: float = 0.95, every: int = 10) -> Any:
    """SOAP's direction, as an optax transformation for trees of matrices and vectors.

    Args:
        b1: decay of the mean of gradients.
        b2: decay of the mean of squares and of the factors.
        every: number of steps between two refreshes of the eigenvectors.
    """

    def init(params: Any) -> Any:
        def one(leaf: jax.Array) -> SoapMatrix:
            zeros = jnp.zeros(leaf.shape if leaf.ndim == 2 else (leaf.size, 1))
            rows, columns = zeros.shape if leaf.ndim == 2 else (1, 1)
            left, right = jnp.zeros((rows, rows)), jnp.zeros((columns, columns))
            return SoapMatrix(zeros, zeros, left, right, jnp.eye(rows), jnp.eye(columns))

        return SoapState(jnp.int32(0), [one(leaf) for leaf in jax.tree.leaves(params)])

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        leaves, structure = jax.tree.flatten(updates)
        found = [
            soap_matrix_step(leaf, matrix, state.gradients, (b1, b2), every)
            for leaf, matrix in zip(leaves, state.leaves, strict=True)
        ]
        steps = jax.tree.unflatten(structure, [step for step, _ in found])
        return steps, SoapState(state.gradients + 1, [matrix for _, matrix in found])

    return optax.GradientTransformation(init, update)
