"""Damping: how gamma joins the eigenvalues (DESIGN §5).

| form       | P in the eigenbases                                                              |
|------------|----------------------------------------------------------------------------------|
| `exact`    | `1 / (lambda_A lambda_B + gamma)`: `(A (x) B + gamma I)^-1`                       |
| `factored` | `1 / ((lambda_A + pi sqrt(gamma)) (lambda_B + sqrt(gamma) / pi))`, Martens and    |
|            | Grosse 2015, with `pi^2 = mean lambda_A / mean lambda_B` over the dimensions     |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Number
from gtddp_jax.kronecker.bases import Basis, Table, eigenvalues, outer

FORMS = ("exact", "factored")


class Parts(NamedTuple):
    """What factored damping adds to the two factors, [groups] each."""

    left: jax.Array
    right: jax.Array


def parts(left: Basis, right: Basis, gamma: Number) -> Parts:
    """`pi sqrt(gamma)` and `sqrt(gamma) / pi`; pi is 1 where a factor is zero."""
    widths = left.vectors.shape[-1], right.vectors.shape[-1]
    return balanced(left.mean_value, right.mean_value, gamma, widths)


def balanced(left: jax.Array, right: jax.Array, gamma: Number, widths: tuple[int, int]) -> Parts:
    """`parts` from the mean eigenvalues [groups] and the widths of the two factors.

    Nothing less is added than a factor's rounding error, without which its Cholesky factor may not
    exist.
    """
    known = (left > 0) & (right > 0)
    pi = jnp.sqrt(jnp.where(known, left, 1.0) / jnp.where(known, right, 1.0))
    root = jnp.sqrt(gamma)
    least = [jnp.finfo(v.dtype).eps * w * v for v, w in zip((left, right), widths, strict=True)]
    return Parts(jnp.maximum(pi * root, least[0]), jnp.maximum(root / pi, least[1]))


def factored(left: Basis, right: Basis, gamma: Number) -> jax.Array:
    """Eigenvalues of the damped factors' product, [groups, left rank, right rank]; full bases."""
    add = parts(left, right, gamma)
    return outer(left.values + add.left[:, None], right.values + add.right[:, None])


def inverse(left: Basis, right: Basis, gamma: Number, form: str) -> Table:
    """The table of P for `A (x) B`; `factored` for full bases only."""
    if form == "factored":
        inside = 1 / factored(left, right, gamma)
        return Table(inside, jnp.zeros_like(inside[:, 0, 0]))
    return exact(eigenvalues(left, right), gamma)


def exact(curvature: Table, gamma: Number) -> Table:
    """`1 / (curvature + gamma)`."""
    return jax.tree.map(lambda value: 1 / (value + gamma), curvature)
