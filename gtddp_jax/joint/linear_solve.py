"""Symmetric positive definite systems that may be close to singular.

The matrix is scaled to unit diagonal together with its damping, factorized by Cholesky, and the
solution is refined once. Where Cholesky fails (rounding has cost the matrix its definiteness), an
eigendecomposition with a cut-off solves in the part that is left.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.types import Count, Scalar

CHOLESKY, EIGENDECOMPOSITION, CONJUGATE_GRADIENTS = 0, 1, 2
"""Values of `Solution.method`."""


class Solution(NamedTuple):
    """The solution of one system.

    Attributes:
        value: x [n].
        method: int32; `CHOLESKY`, `EIGENDECOMPOSITION` or `CONJUGATE_GRADIENTS`.
        rank: int32; dimensions that were solved for.
        condition: estimate of the condition number of the scaled matrix.
        residual: norm of `right - matrix x`, relative to that of `right`.
    """

    value: Float[Array, " n"]
    method: Count
    rank: Count
    condition: Scalar
    residual: Scalar


Solver: TypeAlias = Callable[[Float[Array, " n"]], Solution]
"""Solves systems with one matrix: a right-hand side -> its solution."""


def no_solution(vector: Float[Array, " n"]) -> Solution:
    """A solution that has the types of any other, before the first system is solved."""
    zero = jnp.zeros((), vector.dtype)
    return Solution(vector, jnp.int32(0), jnp.int32(0), zero, zero)


def relative_norm(rest: Float[Array, " n"], right: Float[Array, " n"]) -> Scalar:
    """|rest| / |right|; 0 where both vanish."""
    norm = jnp.linalg.norm(right)
    return jnp.linalg.norm(rest) / jnp.where(norm > 0, norm, 1.0)


def symmetric_solver(
    make_matrix: Callable[[], Float[Array, "n n"]],
    multiply: Callable[[Float[Array, " n"]], Float[Array, " n"]],
) -> Solver:
    """Factorizes a symmetric positive (semi-)definite matrix, once for all right-hand sides.

    Args:
        make_matrix: returns the matrix, of which the lower triangle counts. A function, so that
            fewer matrices are in memory at the same time.
        multiply: the product of the matrix with a vector.
    """

    def scaled_matrix() -> tuple[jax.Array, jax.Array]:
        matrix = make_matrix()
        diagonal = jnp.diagonal(matrix)
        scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0))
        return scale[:, None] * matrix * scale[None], scale

    scaled, scale = scaled_matrix()
    size = scale.size
    factor = jax.lax.linalg.cholesky(scaled, symmetrize_input=False)
    finite = jnp.isfinite(jnp.diagonal(factor)).all()

    def by_cholesky(right: jax.Array) -> Solution:
        def solve(vector: jax.Array) -> jax.Array:
            return scale * jax.scipy.linalg.cho_solve((factor, True), scale * vector)

        first = solve(right)
        # One step of iterative refinement removes most of the rounding of the factorization.
        value = first + solve(right - multiply(first))
        pivots = jnp.diagonal(factor)
        condition = jnp.square(pivots.max() / pivots.min())
        residual = relative_norm(right - multiply(value), right)
        return Solution(value, jnp.int32(CHOLESKY), jnp.int32(size), condition, residual)

    def by_eigendecomposition(right: jax.Array) -> Solution:
        values, vectors = jnp.linalg.eigh(scaled_matrix()[0], symmetrize_input=False)
        cutoff = size * jnp.finfo(values.dtype).eps * values[-1]
        kept = values > cutoff
        inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)
        value = scale * (vectors @ (inverse * (vectors.T @ (scale * right))))
        condition = values[-1] / jnp.where(kept, values, values[-1]).min()
        return Solution(
            value,
            jnp.int32(EIGENDECOMPOSITION),
            kept.sum(dtype=jnp.int32),
            condition,
            relative_norm(right - multiply(value), right),
        )

    return lambda right: jax.lax.cond(finite, by_cholesky, by_eigendecomposition, right)


class _ConjugateGradients(NamedTuple):
    """Where conjugate gradients stand: x, the residual r, the direction, r . z, and the steps."""

    value: jax.Array
    residual: jax.Array
    direction: jax.Array
    product: jax.Array
    steps: jax.Array


def conjugate_gradients(
    multiply: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    right: Float[Array, " n"],
    diagonal: Float[Array, " n"],
    tolerance: float,
    iterations: int,
) -> Solution:
    """Solves a system with a positive definite matrix by products with it.

    Written out, because the solver of JAX marks its result as different on each device under
    `shard_map`.

    Args:
        multiply: the product of the matrix with a vector.
        right: the right-hand side.
        diagonal: of the matrix or nearly so, the preconditioner.
        tolerance: relative residual at which to stop.
        iterations: largest number of products.
    """

    def is_unfinished(search: _ConjugateGradients) -> jax.Array:
        return (search.steps < iterations) & (relative_norm(search.residual, right) > tolerance)

    def improve(search: _ConjugateGradients) -> _ConjugateGradients:
        image = multiply(search.direction)
        curvature = search.direction @ image
        length = search.product / jnp.where(curvature > 0, curvature, jnp.inf)
        residual = search.residual - length * image
        conditioned = residual / diagonal
        product = residual @ conditioned
        direction = conditioned + product / search.product * search.direction
        value = search.value + length * search.direction
        return _ConjugateGradients(value, residual, direction, product, search.steps + 1)

    start = right / diagonal
    first = _ConjugateGradients(jnp.zeros_like(right), right, start, right @ start, jnp.int32(0))
    value = jax.lax.while_loop(is_unfinished, improve, first).value
    return Solution(
        value,
        jnp.int32(CONJUGATE_GRADIENTS),
        jnp.int32(right.size),
        jnp.full((), jnp.nan, right.dtype),
        relative_norm(right - multiply(value), right),
    )


def largest_eigenvalue(
    multiply: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    steps: int = 12,
) -> Scalar:
    """Estimate from below of the largest eigenvalue of a symmetric matrix, by power iteration.

    Args:
        multiply: the product of the matrix with a vector.
        start: any vector that is not orthogonal to the first eigenvector.
        steps: number of products.
    """
    start = start + jnp.finfo(start.dtype).tiny

    def improve(vector: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        image = multiply(vector)
        length = jnp.linalg.norm(image)
        return image / jnp.where(length > 0, length, 1.0), length

    _, lengths = jax.lax.scan(improve, start / jnp.linalg.norm(start), None, length=steps)
    return lengths[-1]
