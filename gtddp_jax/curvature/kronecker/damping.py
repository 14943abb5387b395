"""Damping: how gamma is added to the eigenvalues.

| form       | P in the eigenbases                                                              |
|------------|----------------------------------------------------------------------------------|
| `exact`    | `1 / (lambda_A lambda_B + gamma)`: `(A (x) B + gamma I)^-1`                       |
| `factored` | `1 / ((lambda_A + pi sqrt(gamma)) (lambda_B + sqrt(gamma) / pi))`                 |

`factored` is that of Martens and Grosse 2015, with `pi^2 = mean lambda_A / mean lambda_B` over all
dimensions, which balances the two factors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Number
from gtddp_jax.curvature.kronecker.eigenbases import (
    Eigenbasis,
    EigenTable,
    kronecker_eigenvalues,
    outer_products,
)

DAMPING_FORMS = ("exact", "factored")


class FactorDamping(NamedTuple):
    """What factored damping adds to the two factors, [groups] each."""

    rows: jax.Array
    columns: jax.Array


def factor_damping(row_basis: Eigenbasis, column_basis: Eigenbasis, gamma: Number) -> FactorDamping:
    """`pi sqrt(gamma)` and `sqrt(gamma) / pi`; pi is 1 where a factor is zero."""
    widths = row_basis.vectors.shape[-1], column_basis.vectors.shape[-1]
    return balanced_damping(row_basis.mean_eigenvalue, column_basis.mean_eigenvalue, gamma, widths)


def balanced_damping(
    row_mean: jax.Array, column_mean: jax.Array, gamma: Number, widths: tuple[int, int]
) -> FactorDamping:
    """`factor_damping` from the mean eigenvalues [groups] and the widths of the two factors."""
    # In the first steps a factor may be exactly zero, for example with zero inputs.
    nonzero = (row_mean > 0) & (column_mean > 0)
    pi = jnp.sqrt(jnp.where(nonzero, row_mean, 1.0) / jnp.where(nonzero, column_mean, 1.0))
    root = jnp.sqrt(gamma)
    # Less than a factor's rounding error would leave it without a Cholesky factor.
    row_bound, column_bound = (
        jnp.finfo(mean.dtype).eps * width * mean
        for mean, width in zip((row_mean, column_mean), widths, strict=True)
    )
    return FactorDamping(jnp.maximum(pi * root, row_bound), jnp.maximum(root / pi, column_bound))


def factored_eigenvalues(
    row_basis: Eigenbasis, column_basis: Eigenbasis, gamma: Number
) -> jax.Array:
    """Eigenvalues of the product of the damped factors, [groups, rows, columns]; complete bases."""
    added = factor_damping(row_basis, column_basis, gamma)
    return outer_products(
        row_basis.values + added.rows[:, None], column_basis.values + added.columns[:, None]
    )


def damped_inverse(
    row_basis: Eigenbasis, column_basis: Eigenbasis, gamma: Number, form: str
) -> EigenTable:
    """The table of P for `A (x) B`; the form `factored` needs complete bases."""
    if form == "factored":
        # Factors with factored damping are never of low rank, so nothing is outside.
        inside = 1 / factored_eigenvalues(row_basis, column_basis, gamma)
        return EigenTable(inside, jnp.zeros_like(inside[:, 0, 0]))
    return exact_inverse(kronecker_eigenvalues(row_basis, column_basis), gamma)


def exact_inverse(curvature: EigenTable, gamma: Number) -> EigenTable:
    """`1 / (curvature + gamma)`."""
    return jax.tree.map(lambda value: 1 / (value + gamma), curvature)
