"""The factors of several players side by side, A_ww and B_ww (paper Eq. 50).

    A_ww = E[x^ x^^T],  B_ww = E[g^ g^^T],  x^ = [x_u, x_v, ...],  g^ = [g_u, g_v, ...]

Positions are paired between players whose outputs have the same shape. Between others the cross
moments are those of means over positions, which leaves the joint matrix positive semi-definite.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.chunks import sum_over_samples
from gtddp_jax.core.types import Number, Scalar
from gtddp_jax.curvature.base import StageInputs
from gtddp_jax.curvature.kronecker import factor_statistics
from gtddp_jax.curvature.kronecker.damping import balanced_damping
from gtddp_jax.curvature.kronecker.factor_statistics import FactorOptions
from gtddp_jax.curvature.kronecker.operators import PlayerLayouts
from gtddp_jax.curvature.kronecker.running_factors import RunningAverage


class JointFactors(NamedTuple):
    """Running joint factors.

    Attributes:
        inputs: A_ww, [1, all rows, all rows].
        outputs: B_ww, [1, all columns, all columns].
    """

    inputs: RunningAverage
    outputs: RunningAverage


class DampedFactors(NamedTuple):
    """Joint factors with factored damping on each player's own blocks.

    Attributes:
        inputs: [all rows, all rows].
        outputs: [all columns, all columns].
    """

    inputs: jax.Array
    outputs: jax.Array


def consecutive_slices(widths: list[int]) -> list[slice]:
    """Slices of these widths, one after the other."""
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def row_slices(layouts: PlayerLayouts) -> dict[str, slice]:
    """Each player's rows in A_ww."""
    widths = [layout.rows for layout in layouts.values()]
    return dict(zip(layouts, consecutive_slices(widths), strict=True))


def column_slices(layouts: PlayerLayouts) -> dict[str, slice]:
    """Each player's rows in B_ww."""
    widths = [layout.columns for layout in layouts.values()]
    return dict(zip(layouts, consecutive_slices(widths), strict=True))


def init_joint_factors(layouts: PlayerLayouts, dtype: jnp.dtype) -> JointFactors:
    """Joint factors before the first batch."""

    def empty_average(width: int) -> RunningAverage:
        # One group: `choose_cooperation` refuses grouped convolutions.
        return RunningAverage(jnp.zeros((1, width, width), dtype), jnp.zeros((), dtype))

    return JointFactors(
        empty_average(sum(layout.rows for layout in layouts.values())),
        empty_average(sum(layout.columns for layout in layouts.values())),
    )


def update_joint_factors(
    joint: JointFactors, layouts: PlayerLayouts, inputs: StageInputs, options: FactorOptions
) -> JointFactors:
    """The factors after one more batch."""
    counted = inputs.counted
    sample_weights = counted.mask(inputs.sample_weights)
    data = {
        name: (
            inputs.tapes[name].inputs,
            factor_statistics.weighted_adjoints(inputs.tapes[name], sample_weights),
            counted.has_gradient,
        )
        for name in layouts
    }
    position_shapes = [adjoints.shape[1:-1] for _, adjoints, _ in data.values()]

    def chunk_moments(
        chunk: dict[str, tuple[jax.Array, jax.Array, jax.Array]],
    ) -> tuple[jax.Array, jax.Array]:
        # Cross moments need the vectors of all players for the same samples.
        vectors = [
            factor_statistics.factor_vectors(layouts[name], *chunk[name], options.positions)
            for name in layouts
        ]
        return (
            _joint_moments([player.a for player in vectors], position_shapes),
            _joint_moments([player.b for player in vectors], position_shapes),
        )

    # The player with the most numbers per sample bounds the memory of all.
    chunk_size = min(
        factor_statistics.vector_chunk_size(layouts[name], adjoints)
        for name, (_, adjoints, _) in data.items()
    )
    input_sum, output_sum = counted.samples.sum_over_devices(
        sum_over_samples(chunk_moments, data, chunk_size)
    )

    def next_average(
        average: RunningAverage, moment_sum: jax.Array, mean_scale: Scalar
    ) -> RunningAverage:
        # Statistics keep their dtype, whatever that of the batch.
        mean = (mean_scale * (moment_sum / counted.samples.count)).astype(
            average.weighted_sum.dtype
        )
        return average.with_moments(mean[None], options.decay)

    # Scaled as the players' own factors, see `factor_statistics`.
    return JointFactors(
        next_average(joint.inputs, input_sum, counted.inverse_share),
        next_average(joint.outputs, output_sum, counted.share),
    )


def _joint_moments(vectors: list[jax.Array], position_shapes: list[tuple[int, ...]]) -> jax.Array:
    """Sums over samples, means over positions, of vectors [n, S, 1, width] side by side."""
    flat = [player[:, :, 0] for player in vectors]
    means = [player.mean(1) for player in flat]

    def block(row: int, column: int) -> jax.Array:
        # The number alone would pair the positions of outputs of sizes 2 x 3 and 3 x 2.
        same_count = flat[row].shape[1] == flat[column].shape[1]
        if same_count and position_shapes[row] == position_shapes[column]:
            return jnp.einsum("nsp,nsq->pq", flat[row], flat[column]) / flat[row].shape[1]
        # Moments of means are positive semi-definite, and own blocks only add to them.
        return jnp.einsum("np,nq->pq", means[row], means[column])

    players = range(len(vectors))
    return jnp.block([[block(row, column) for column in players] for row in players])


def damp_joint_factors(joint: JointFactors, layouts: PlayerLayouts, gamma: Number) -> DampedFactors:
    """Adds each player's own `pi sqrt(gamma)` and `sqrt(gamma) / pi` to its diagonal blocks."""
    a, b = joint.inputs.moment_matrix[0], joint.outputs.moment_matrix[0]
    rows, columns = row_slices(layouts), column_slices(layouts)
    input_damping, output_damping = [], []
    for name, layout in layouts.items():
        # The mean of the diagonal is the mean eigenvalue of the own block.
        input_mean = jnp.diagonal(a)[rows[name]].mean()[None]
        output_mean = jnp.diagonal(b)[columns[name]].mean()[None]
        widths = layout.rows, layout.columns
        added = balanced_damping(input_mean, output_mean, gamma, widths)
        input_damping.append(jnp.broadcast_to(added.rows, (layout.rows,)))
        output_damping.append(jnp.broadcast_to(added.columns, (layout.columns,)))
    return DampedFactors(
        a + jnp.diag(jnp.concatenate(input_damping)),
        b + jnp.diag(jnp.concatenate(output_damping)),
    )
