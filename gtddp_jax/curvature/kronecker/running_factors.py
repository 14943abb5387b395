"""Running second moments of vectors: as a matrix, or as the vectors themselves.

`RunningAverage` keeps `E[v v^T]`. `VectorWindow` keeps the last vectors, for factors wider than the
number of samples that they remember: their moments have low rank, and a decomposition costs
`rows^2 width` instead of `width^3`.

Both multiply the weight of older batches by `decay` at each update and divide by the sum of all
weights, so that the first estimate is not biased towards zero.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.types import Flag

GOLDEN_RATIO = (5**0.5 + 1) / 2
"""Its multiples modulo 1 are evenly spread, however many are taken."""


class RunningAverage(NamedTuple):
    """A running mean of moment matrices.

    Attributes:
        weighted_sum: [groups, width, width].
        total_weight: sum of the weights, shape ().
    """

    weighted_sum: jax.Array
    total_weight: jax.Array

    @property
    def moment_matrix(self) -> jax.Array:
        """`E[v v^T]`, [groups, width, width]; zeros before the first update."""
        # No division by zero before the first batch.
        return self.weighted_sum / jnp.where(self.total_weight > 0, self.total_weight, 1.0)

    @property
    def is_empty(self) -> Flag:
        """Whether there has been no batch yet."""
        return self.total_weight == 0

    def with_moments(self, moments: jax.Array, decay: float) -> "RunningAverage":
        """The average after one more batch with these moments, [groups, width, width]."""
        return RunningAverage(
            decay * self.weighted_sum + (1 - decay) * moments,
            decay * self.total_weight + (1 - decay),
        )


class VectorWindow(NamedTuple):
    """The most recent vectors.

    Attributes:
        vectors: newest last, [rows, groups, width].
        weights: [rows].
    """

    vectors: jax.Array
    weights: jax.Array

    @property
    def scaled_vectors(self) -> jax.Array:
        """W [groups, rows, width] with `W^T W = E[v v^T]`."""
        total = self.weights.sum()
        root_weights = jnp.sqrt(self.weights / jnp.where(total > 0, total, 1.0))
        return (root_weights[:, None, None] * self.vectors).transpose(1, 0, 2)

    @property
    def moment_matrix(self) -> jax.Array:
        """`E[v v^T]`, [groups, width, width]."""
        w = self.scaled_vectors
        return jnp.einsum("grd,gre->gde", w, w)

    @property
    def is_empty(self) -> Flag:
        """Whether there has been no batch yet."""
        return self.weights.sum() == 0

    def with_vectors(
        self, vectors: jax.Array, decay: float, counted: CountedSamples
    ) -> "VectorWindow":
        """The window after one more batch.

        Of a batch with more vectors than the window has rows, as many as there are rows enter,
        evenly spread over the batch.

        Args:
            vectors: this device's vectors, [local, positions, groups, width].
            decay: factor on the weights of older vectors.
            counted: the samples that have a gradient; the vectors of the others are dropped.
        """
        positions = vectors.shape[1]
        # A batch has the weight 1 - decay, divided among its vectors.
        weight = (1 - decay) / (counted.samples.count * positions) * counted.inverse_share
        weights = jnp.where(counted.has_gradient, weight.astype(self.weights.dtype), 0)
        vectors, weights = (
            counted.samples.gather_over_devices(x)
            for x in (vectors.reshape(-1, *vectors.shape[2:]), jnp.repeat(weights, positions))
        )
        rows = self.vectors.shape[0]
        if vectors.shape[0] > rows:
            vectors, weights = _spread_subset(vectors, weights, rows)
        new_rows = vectors.shape[0]
        # As many rows as are new make room: those of samples without a gradient, then the oldest.
        is_kept = jnp.concatenate([jnp.full(rows, True), weights > 0])
        order = jnp.argsort(is_kept, stable=True)[new_rows:]
        return VectorWindow(
            jnp.concatenate([self.vectors, vectors.astype(self.vectors.dtype)])[order],
            jnp.concatenate([decay * self.weights, weights])[order],
        )


def _spread_subset(
    vectors: jax.Array, weights: jax.Array, rows: int
) -> tuple[jax.Array, jax.Array]:
    """`rows` of the vectors [n, ...] and their weights [n], which are equal or zero.

    Vectors of weight zero are taken only if there are too few others. The sum of the weights stays.
    """
    has_weight = weights > 0
    count = has_weight.sum(dtype=jnp.int32)
    taken = jnp.minimum(count, rows)
    # One vector of each of `taken` sections of the batch. Always the first one of a section would
    # be the same position of each sample where a sample has as many positions as a section.
    bounds = jnp.arange(rows + 1) * count // jnp.maximum(taken, 1)
    fractions = jnp.asarray(np.arange(rows) * GOLDEN_RATIO % 1, jnp.float32)
    within = (fractions * (bounds[1:] - bounds[:-1])).astype(bounds.dtype)
    places = jnp.where(jnp.arange(rows) < taken, bounds[:-1] + within, jnp.arange(rows))
    chosen = jnp.argsort(~has_weight, stable=True)[places]
    weight_of_all = count / jnp.maximum(taken, 1)
    return vectors[chosen], weight_of_all.astype(weights.dtype) * weights[chosen]


Factor: TypeAlias = RunningAverage | VectorWindow


def empty_factor(groups: int, width: int, dtype: jnp.dtype, rows: int | None) -> Factor:
    """A factor before its first batch: a window of `rows` vectors, or a matrix if None."""
    if rows is None:
        return RunningAverage(jnp.zeros((groups, width, width), dtype), jnp.zeros((), dtype))
    return VectorWindow(jnp.zeros((rows, groups, width), dtype), jnp.zeros(rows, dtype))
