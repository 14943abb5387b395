"""`Product` with a degraded influence: a sample weighting of prescribed prediction quality."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from typing_extensions import override

import gtddp_jax as gt


@dataclasses.dataclass(frozen=True)
class DegradedProduct(gt.weighting.SampleWeighting):
    """`Product`, with each sample's influence n mixed with that of another sample of the batch.

    With the mean m of n over the batch and n' the influence of the next sample,
    `n <- m + c^2 (n - m) + c sqrt(1 - c^2) (n' - m)`. For samples in random order, its correlation
    with n is about c and the regression of n on it is 1, as the factor kappa of `Tail` ensures. For
    c = 0 all samples have the mean influence.

    Attributes:
        correlation: c, in [0, 1].
    """

    correlation: float = 1.0

    @override
    def compute_weights(
        self, context: gt.weighting.WeightingContext, state: chex.ArrayTree
    ) -> tuple[jax.Array, chex.ArrayTree, gt.weighting.Prediction]:
        q, jvp_fn = context.losses.restrict(lambda tree: tree)
        parts = context.base.split_update(q)
        n = -jvp_fn(parts.gradient_response)
        predict = context.base.predict_momentum
        s0 = jvp_fn(parts.momentum_step) if predict else jnp.zeros_like(n)
        w = gt.weighting.solve_sample_weights(
            context.losses.expansion, s0, degrade_influence(n, self.correlation), context.bounds
        )
        # All ones: it predicts with the whole network. Aliased buffers could not be donated.
        ones = (jnp.ones((), jnp.float32) for _ in gt.weighting.Prediction._fields)
        return w, state, gt.weighting.Prediction(*ones)


def degrade_influence(n: jax.Array, correlation: float) -> jax.Array:
    """Mix the influence n [B] with that of other samples, see `DegradedProduct`."""
    deviation = n - n.mean()
    mixed_in = correlation * (1 - correlation**2) ** 0.5 * jnp.roll(deviation, -1)
    return n.mean() + correlation**2 * deviation + mixed_in
