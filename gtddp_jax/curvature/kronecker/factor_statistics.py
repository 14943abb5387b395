"""From a batch to factors: the vectors a and b of a player and their second moments.

Every factor is a mean over vectors. To make the product of the factors the curvature of a *sum*
over positions, b is multiplied by sqrt(S): `S E[a a^T] (x) E[b b^T]`, with expectations over
samples and positions. They are over the samples that have a gradient; n of B samples without the
others are a batch with the loss multiplied by n / B, so that b is multiplied by that.

| positions | a                   | b                              | for                           |
|-----------|---------------------|--------------------------------|-------------------------------|
| `expand`  | of each position    | sqrt(S) times each position's  | independent positions         |
| `reduce`  | mean over positions | sum over positions             | weights shared in a sample    |

For convolutions `expand` is KFC (Grosse and Martens 2016); the two names are those of Eschenhagen
et al. 2023. With one position per sample they are the same.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.chunks import sum_over_samples
from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.trees import expand_per_sample
from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.curvature.base import StageInputs
from gtddp_jax.curvature.kronecker.matrix_layouts import DenseLayout, MatrixLayout
from gtddp_jax.curvature.kronecker.running_factors import Factor, RunningAverage, VectorWindow
from gtddp_jax.network.protocol import PlayerTape

POSITION_MODES = ("expand", "reduce")
MAX_VECTOR_NUMBERS = 2**21
"""How many numbers of vectors are in memory at once; a convolution has many patches."""


class FactorOptions(NamedTuple):
    """How factors are estimated.

    Attributes:
        positions: "expand" or "reduce".
        decay: factor on the weight of older batches, in [0, 1).
        full_limit: dense factors wider than this keep a window of vectors instead of a matrix.
        window_rows: the number of vectors in such a window.
    """

    positions: str
    decay: float
    full_limit: int
    window_rows: int

    def rows_to_keep(self, layout: MatrixLayout, width: int) -> int | None:
        """The number of vectors that a factor of this width keeps, or None for the full matrix."""
        # A window with as many rows as the matrix would save nothing.
        small = width <= self.full_limit or width <= self.window_rows
        return None if small or not isinstance(layout, DenseLayout) else self.window_rows


class PlayerObservation(NamedTuple):
    """What one Kronecker player did in one step.

    Attributes:
        layout: the player's matrix form.
        gradient: its part of Q_u.
        tape: its inputs, output adjoints and per-sample gradients.
        sample_weights: alpha, the weight of each sample in `gradient`; zero for samples without a
            gradient.
        counted: the samples that have a gradient.
    """

    layout: MatrixLayout
    gradient: Tree
    tape: PlayerTape
    sample_weights: PerSample
    counted: CountedSamples


def observe_player(name: str, layout: MatrixLayout, inputs: StageInputs) -> PlayerObservation:
    """One player's part of the inputs of a stage."""
    counted = inputs.counted
    return PlayerObservation(
        layout,
        inputs.gradient[name],
        inputs.tapes[name],
        counted.mask(inputs.sample_weights),
        counted,
    )


class FactorVectors(NamedTuple):
    """The vectors of some samples.

    Attributes:
        a: [B, S, groups, rows].
        b: [B, S, groups, columns], scaled as at the top of this module.
    """

    a: jax.Array
    b: jax.Array


def factor_vectors(
    layout: MatrixLayout,
    inputs: jax.Array,
    adjoints: jax.Array,
    has_gradient: jax.Array,
    positions: str,
) -> FactorVectors:
    """The vectors of some samples.

    Args:
        layout: the player's matrix form.
        inputs: its inputs [B, ...].
        adjoints: its weighted output adjoints [B, ...], zero for samples without a gradient.
        has_gradient: which samples have a gradient [B]; the vectors of the others are zero.
        positions: "expand" or "reduce".
    """
    a, b = layout.input_vectors(inputs), layout.adjoint_vectors(adjoints)
    # Here and not in the inputs, because a bias adds an entry of 1 to each vector.
    a = jnp.where(expand_per_sample(has_gradient, a), a, jnp.zeros_like(a))
    if positions == "reduce":
        return FactorVectors(a.mean(1, keepdims=True), b.sum(1, keepdims=True))
    return FactorVectors(a, b * jnp.sqrt(jnp.asarray(b.shape[1], b.dtype)))


def weighted_adjoints(tape: PlayerTape, sample_weights: PerSample) -> jax.Array:
    """V_h = alpha g_h (paper Eq. 43), [B, ...]."""
    # Weights are float32 or wider; vectors stay in the precision of the adjoints.
    return (expand_per_sample(sample_weights, tape.output_adjoints) * tape.output_adjoints).astype(
        tape.output_adjoints.dtype
    )


def vector_chunk_size(layout: MatrixLayout, adjoints: jax.Array) -> int:
    """How many samples have their vectors in memory at once."""
    numbers_per_sample = layout.count_positions(adjoints) * layout.groups * layout.rows
    return max(1, MAX_VECTOR_NUMBERS // numbers_per_sample)


def vector_moments(vectors: jax.Array) -> jax.Array:
    """`sum v v^T` over samples and positions of [B, S, groups, width]: [groups, width, width]."""
    # Samples and positions become one axis: one matrix product per group.
    v = vectors.reshape(-1, *vectors.shape[2:]).transpose(1, 0, 2)
    return jnp.einsum("gnd,gne->gde", v, v)


def update_factors(
    factors: tuple[Factor, Factor], observation: PlayerObservation, options: FactorOptions
) -> tuple[Factor, Factor]:
    """The factors of a and of b after one more batch."""
    layout, counted, positions = observation.layout, observation.counted, options.positions
    inputs = observation.tape.inputs
    adjoints = weighted_adjoints(observation.tape, observation.sample_weights)
    # "reduce" has summed over the positions already.
    position_count = layout.count_positions(adjoints) if positions == "expand" else 1

    def chunk_moments(chunk: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(
            vector_moments(vectors)
            for vectors, factor in zip(
                factor_vectors(layout, *chunk, positions), factors, strict=True
            )
            if isinstance(factor, RunningAverage)
        )

    data = (inputs, adjoints, counted.has_gradient)
    moments = iter(sum_over_samples(chunk_moments, data, vector_chunk_size(layout, adjoints)))
    # Windows need the vectors of all samples at once, so they are computed only for windows.
    any_window = any(isinstance(factor, VectorWindow) for factor in factors)
    vectors = iter(factor_vectors(layout, *data, positions)) if any_window else iter(())
    updated: list[Factor] = []
    # Of a and of b: the factor on the mean over all samples, and the factor on vectors.
    scales = ((counted.inverse_share, 1.0), (counted.share, counted.share))
    for factor, (mean_scale, vector_scale) in zip(factors, scales, strict=True):
        factor_rows = next(vectors, None)
        # Devices sum their moments; windows gather the vectors themselves.
        if isinstance(factor, RunningAverage):
            total = counted.samples.sum_over_devices(next(moments))
            mean = mean_scale * (total / (counted.samples.count * position_count))
            updated.append(
                factor.with_moments(mean.astype(factor.weighted_sum.dtype), options.decay)
            )
        else:
            assert factor_rows is not None
            updated.append(factor.with_vectors(vector_scale * factor_rows, options.decay, counted))
    return updated[0], updated[1]
