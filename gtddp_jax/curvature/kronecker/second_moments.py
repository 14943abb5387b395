"""EKFAC: second moments of gradients in the eigenbases, in place of products of eigenvalues.

| mode          | after each step                                                         |
|---------------|-------------------------------------------------------------------------|
| `running`     | `decay s + (1 - decay) B (rotated mini-batch gradient)^2`               |
| `per_example` | `decay s + (1 - decay) mean_i (rotated gradient of sample i)^2`         |

`running` is the running-average form of the paper's baseline (EKFAC-pytorch, option `ra`),
`per_example` the estimate of George et al. 2018. Both are over the samples that have a gradient,
scaled as in `factor_statistics`. When the bases are renewed, s starts from the products of
eigenvalues. Everything outside of the bases has one second moment, the mean over its dimensions
(see `eigenbases.EigenTable`).
"""

import jax
import jax.numpy as jnp

from gtddp_jax.core.chunks import sum_over_samples
from gtddp_jax.core.trees import expand_per_sample, upcast
from gtddp_jax.core.types import Number, Tree
from gtddp_jax.curvature.kronecker.eigenbases import (
    Eigenbasis,
    EigenTable,
    squared_coordinates,
    table_dimensions,
    vector_energies,
)
from gtddp_jax.curvature.kronecker.factor_statistics import PlayerObservation
from gtddp_jax.curvature.kronecker.operators import gradient_chunk_size

MOMENT_MODES = ("running", "per_example")


def batch_gradient_moments(
    observation: PlayerObservation, row_basis: Eigenbasis, column_basis: Eigenbasis
) -> EigenTable:
    """`B (rotated q)^2` for the mean gradient q of the batch."""
    matrix = observation.layout.to_matrix(observation.gradient)
    # The mean gradient is mostly noise, and B times its square estimates the mean square.
    squares = squared_coordinates(matrix, row_basis, column_basis)
    count = observation.counted.count.astype(matrix.dtype)
    return _mean_per_dimension(squares, count, row_basis, column_basis)


def _mean_per_dimension(
    total: EigenTable, factor: Number, row_basis: Eigenbasis, column_basis: Eigenbasis
) -> EigenTable:
    # Only the entry outside stands for more than one dimension.
    dimensions = table_dimensions(row_basis, column_basis)
    return jax.tree.map(lambda energy, count: factor * energy / count, total, dimensions)


def sample_gradient_moments(
    observation: PlayerObservation, row_basis: Eigenbasis, column_basis: Eigenbasis
) -> EigenTable:
    """`mean_i (rotated alpha_i G_i)^2`; with one position per sample G_i is never formed."""
    layout, tape, counted = observation.layout, observation.tape, observation.counted
    alpha = observation.sample_weights
    if layout.count_positions(tape.output_adjoints) == 1:
        # G_i = a b^T, so its squared coordinates are products of those of a and b.
        a = vector_energies(layout.input_vectors(tape.inputs)[:, 0], row_basis)
        # alpha is applied to b, so that the square below contains alpha^2.
        weighted = expand_per_sample(alpha, tape.output_adjoints) * upcast(tape.output_adjoints)
        b = vector_energies(layout.adjoint_vectors(weighted)[:, 0], column_basis)
        inside = jnp.einsum("ngp,ngq->gpq", a.inside, b.inside)
        whole = (a.total * b.total).sum(0)
        total = EigenTable(inside, jnp.maximum(whole - inside.sum((1, 2)), 0))
    else:
        data, gradient_of = tape.sample_gradients.split_by_sample()

        def chunk_moments(chunk: tuple[Tree, jax.Array]) -> EigenTable:
            matrices = jax.vmap(lambda sample: layout.to_matrix(gradient_of(sample)))(chunk[0])
            squares = jax.vmap(lambda g: squared_coordinates(g, row_basis, column_basis))(matrices)
            # The squares of alpha_i G_i.
            weights = jnp.square(chunk[1])
            return jax.tree.map(lambda s: jnp.tensordot(weights.astype(s.dtype), s, 1), squares)

        chunk_size = gradient_chunk_size([layout])
        total = sum_over_samples(chunk_moments, (data, alpha), chunk_size)
    # The mean over n samples of the squares of n / B times their gradients.
    mean_factor = 1 / counted.samples.count * counted.share
    return _mean_per_dimension(
        counted.samples.sum_over_devices(total), mean_factor, row_basis, column_basis
    )
