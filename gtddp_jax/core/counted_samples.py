"""Which samples count: statistics are over the samples that have a gradient.

The gradient and the loss of a step are means over all samples (`SampleReductions`). Statistics,
such as correlations, Kronecker factors and the figures of the report, leave out samples without a
gradient: padding changes nothing.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.trees import expand_per_sample
from gtddp_jax.core.types import Count, Flag, PerSample, Scalar


@dataclasses.dataclass(frozen=True)
class CountedSamples:
    """The samples that have a gradient, and reductions over them.

    Statistics over these n of B samples are those of a batch of n samples whose loss is multiplied
    by n / B: a mean over all B samples with zeros for the others has that value.

    Attributes:
        samples: reductions over all samples.
        has_gradient: which samples of this device have a gradient, [local].
        count: n, the number of samples with a gradient on all devices, int32.
    """

    samples: SampleReductions
    has_gradient: Bool[Array, " local"]
    count: Count

    @property
    def any(self) -> Flag:
        """Whether any sample has a gradient."""
        return self.count > 0

    @property
    def share(self) -> Scalar:
        """N / B; exactly 1 if all samples have a gradient."""
        # B / n first, because a division by the constant B may become a product with its inverse.
        return jnp.where(self.any, 1 / self.inverse_share, 0.0)

    @property
    def inverse_share(self) -> Scalar:
        """B / n; exactly 1 if all samples have a gradient, B if none has."""
        # An integer of 32 bits would be divided in float32 whatever the precision of the game.
        return self.samples.count / jnp.maximum(self.count, 1).astype(float)

    def mask(self, x: Shaped[Array, "local ..."]) -> Shaped[Array, "local ..."]:
        """`x` with zeros for the samples that have no gradient."""
        return jnp.where(expand_per_sample(self.has_gradient, x), x, jnp.zeros_like(x))

    def mean(self, x: PerSample) -> Scalar:
        """The mean of `x` [local]; 0 if no sample has a gradient."""
        return self.samples.mean(self.mask(x)) * self.inverse_share.astype(x.dtype)

    def min(self, x: Shaped[Array, "... local"]) -> Shaped[Array, ""]:
        """The minimum of `x`; infinity if no sample has a gradient."""
        has_gradient = jnp.broadcast_to(self.has_gradient, x.shape)
        return self.samples.min(jnp.where(has_gradient, x, jnp.inf))

    def max(self, x: Shaped[Array, "... local"]) -> Shaped[Array, ""]:
        """The maximum of `x`; minus infinity if no sample has a gradient."""
        has_gradient = jnp.broadcast_to(self.has_gradient, x.shape)
        return self.samples.max(jnp.where(has_gradient, x, -jnp.inf))


def samples_with_gradient(
    samples: SampleReductions, has_gradient: Bool[Array, " local"]
) -> CountedSamples:
    """The samples that have a gradient.

    Args:
        samples: reductions over all samples.
        has_gradient: which samples of this device have a gradient, [local].
    """
    return CountedSamples(
        samples, has_gradient, samples.sum_over_devices(has_gradient.sum(dtype=jnp.int32))
    )
