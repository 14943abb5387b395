"""EKFAC: second moments of gradients in the eigenbases, in place of products of eigenvalues.

| mode          | after each step                                                  |
|---------------|------------------------------------------------------------------|
| `running`     | `decay s + (1 - decay) B (rotated mini-batch gradient)^2`        |
| `per_example` | `decay s + (1 - decay) mean_i (rotated gradient of sample i)^2`  |

`running` is the running-average form of the paper's baseline (EKFAC-pytorch, `ra`), `per_example`
the estimate of George et al. 2018. When the bases are new, s starts as the eigenvalues' products.
All that lies outside of the bases shares the mean over its dimensions (see `bases.Table`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.chunks import sum_over_samples
from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import per_sample, wide
from gtddp_jax.core.types import Tree
from gtddp_jax.curvature.base import Move
from gtddp_jax.kronecker.bases import Basis, Table, dimensions, energies, vector_energies
from gtddp_jax.kronecker.layouts import Layout
from gtddp_jax.kronecker.operators import chunk_of

MODES = ("running", "per_example")


def of_gradient(q: jax.Array, left: Basis, right: Basis, samples: Samples) -> Table:
    """`B (rotated q)^2` for the mean gradient q [groups, rows, columns]."""
    return _mean(energies(q, left, right), samples.count, left, right)


def _mean(total: Table, factor: Any, left: Basis, right: Basis) -> Table:
    return jax.tree.map(lambda e, n: factor * e / n, total, dimensions(left, right))


def of_samples(
    layout: Layout, move: Move, alpha: jax.Array, left: Basis, right: Basis, samples: Samples
) -> Table:
    """`mean_i (rotated alpha_i G_i)^2`; with one position a sample G_i is never formed."""
    if layout.positions(move.inputs, move.adjoints) == 1:
        a = vector_energies(layout.inputs(move.inputs)[:, 0], left)
        g = per_sample(alpha, move.adjoints) * wide(move.adjoints)
        b = vector_energies(layout.outputs(g)[:, 0], right)
        inside = jnp.einsum("ngp,ngq->gpq", a.inside, b.inside)
        whole = (a.total * b.total).sum(0)
        total = Table(inside, jnp.maximum(whole - inside.sum((1, 2)), 0))
    else:
        part, gradient = move.samples.parts()

        def sums(data: tuple[Tree, jax.Array]) -> Table:
            matrices = jax.vmap(lambda p: layout.matrix(gradient(p)))(data[0])
            each = jax.vmap(lambda m: energies(m, left, right))(matrices)
            square = jnp.square(data[1])
            return jax.tree.map(lambda e: jnp.tensordot(square.astype(e.dtype), e, 1), each)

        total = sum_over_samples(sums, (part, alpha), chunk_of({"it": layout}))
    return _mean(samples.total(total), 1 / samples.count, left, right)
