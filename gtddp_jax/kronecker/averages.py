"""Running second moments of vectors: as a matrix, or as the vectors themselves.

`Average` keeps `E[v v^T]`. `Window` keeps the last vectors, for factors that are wider than the
number of samples which they remember: their moments have low rank and a decomposition costs
`rows^2 width` instead of `width^3`. Both weigh older batches down by `decay` an update and divide
by the sum of the weights, so that the first estimate is not biased towards zero.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import Samples


class Average(NamedTuple):
    """A running mean of moment matrices.

    Attributes:
        total: weighted sum, [groups, width, width].
        mass: sum of the weights.
    """

    total: jax.Array
    mass: jax.Array

    @property
    def value(self) -> jax.Array:
        """`E[v v^T]`, [groups, width, width]; zeros before the first update."""
        return self.total / jnp.where(self.mass > 0, self.mass, 1.0)

    def updated(self, moments: jax.Array, decay: float) -> "Average":
        """With the moments of one more batch, [groups, width, width]."""
        return Average(decay * self.total + (1 - decay) * moments, decay * self.mass + (1 - decay))


class Window(NamedTuple):
    """The last vectors that were seen.

    Attributes:
        vectors: newest last, [rows, groups, width].
        weights: [rows].
    """

    vectors: jax.Array
    weights: jax.Array

    @property
    def scaled(self) -> jax.Array:
        """W [groups, rows, width] with `W^T W = E[v v^T]`."""
        mass = self.weights.sum()
        share = jnp.sqrt(self.weights / jnp.where(mass > 0, mass, 1.0))
        return (share[:, None, None] * self.vectors).transpose(1, 0, 2)

    @property
    def value(self) -> jax.Array:
        """`E[v v^T]`, [groups, width, width]."""
        w = self.scaled
        return jnp.einsum("grd,gre->gde", w, w)

    def updated(self, vectors: jax.Array, decay: float, samples: Samples) -> "Window":
        """With the vectors of one more batch.

        Args:
            vectors: [n, groups, width] on this device.
            decay: factor on the weights of older vectors.
            samples: the sample axis.

        Raises:
            ValueError: one batch alone overflows the window.
        """
        vectors = samples.gathered(vectors)
        new, rows = vectors.shape[0], self.vectors.shape[0]
        if new > rows:
            raise ValueError(
                f"The batch gives {new} vectors of width {vectors.shape[-1]} to a factor that "
                f"remembers {rows}. Raise window_rows to {new} or more, or full_limit to at least "
                f"{vectors.shape[-1]} for a full decomposition."
            )
        weights = jnp.full(new, (1 - decay) / new, self.weights.dtype)
        return Window(
            jnp.concatenate([self.vectors[new:], vectors.astype(self.vectors.dtype)]),
            jnp.concatenate([decay * self.weights[new:], weights]),
        )


Factor = Average | Window


def empty(groups: int, width: int, dtype: jnp.dtype, rows: int | None) -> Factor:
    """A factor that has seen nothing; a `Window` of so many rows unless `rows` is None."""
    if rows is None:
        return Average(jnp.zeros((groups, width, width), dtype), jnp.zeros((), dtype))
    return Window(jnp.zeros((rows, groups, width), dtype), jnp.zeros(rows, dtype))
