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

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.types import Flag


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

        Args:
            vectors: this device's vectors, [local, positions, groups, width].
            decay: factor on the weights of older vectors.
            counted: the samples that have a gradient; the vectors of the others are dropped.

        Raises:
            ValueError: one batch has more vectors than the window has rows.
        """
        positions = vectors.shape[1]
        # A batch has the weight 1 - decay, divided among its vectors.
        weight = (1 - decay) / (counted.samples.count * positions) * counted.inverse_share
        weights = jnp.where(counted.has_gradient, weight.astype(self.weights.dtype), 0)
        vectors, weights = (
            counted.samples.gather_over_devices(x)
            for x in (vectors.reshape(-1, *vectors.shape[2:]), jnp.repeat(weights, positions))
        )
        new_rows, rows = vectors.shape[0], self.vectors.shape[0]
        if new_rows > rows:
            raise ValueError(
                f"The batch gives {new_rows} vectors of width {vectors.shape[-1]} to a factor that "
                f"remembers {rows}. Raise window_rows to {new_rows} or more, or full_limit to at "
                f"least {vectors.shape[-1]} for a full decomposition."
            )
        # As many rows as are new make room: those of samples without a gradient, then the oldest.
        is_kept = jnp.concatenate([jnp.full(rows, True), weights > 0])
        order = jnp.argsort(is_kept, stable=True)[new_rows:]
        return VectorWindow(
            jnp.concatenate([self.vectors, vectors.astype(self.vectors.dtype)])[order],
            jnp.concatenate([decay * self.weights, weights])[order],
        )


Factor: TypeAlias = RunningAverage | VectorWindow


def empty_factor(groups: int, width: int, dtype: jnp.dtype, rows: int | None) -> Factor:
    """A factor before its first batch: a window of `rows` vectors, or a matrix if None."""
    if rows is None:
        return RunningAverage(jnp.zeros((groups, width, width), dtype), jnp.zeros((), dtype))
    return VectorWindow(jnp.zeros((rows, groups, width), dtype), jnp.zeros(rows, dtype))
