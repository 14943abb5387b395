"""A weight model whose prediction is as bad as one wants it: `product` with a given correlation."""

import dataclasses

import jax.numpy as jnp

from gtddp_jax.core.types import PerSample
from gtddp_jax.simultaneous.weights.base import (
    Context,
    Prediction,
    State,
    WeightModel,
    whole_network,
)
from gtddp_jax.simultaneous.weights.product import influence
from gtddp_jax.terminal.solve import scalar_weights


@dataclasses.dataclass(frozen=True)
class Degraded(WeightModel):
    """`product`, its n mixed with that of other samples of the batch, as `tail` would scale it.

    With m the mean of n over the batch, `n <- m + c^2 (n - m) + c sqrt(1 - c^2) (n' - m)`, n' being
    n of the next sample. For samples in random order its correlation with n is about c, and the
    regression of n on it is 1, which is what the factor kappa of `tail` sees to. For c = 0 all
    samples have the batch's mean.

    Attributes:
        correlation: c, in [0, 1].
    """

    correlation: float = 1.0

    def weights(self, context: Context, state: State) -> tuple[PerSample, State, Prediction]:
        """See `WeightModel`."""
        q, push = context.model.part(lambda tree: tree)
        s0, n, _ = influence(context.base, q, push, lambda tree: tree, 1.0)
        n = mixed(n, self.correlation)
        w = scalar_weights(context.model.expansion, s0, n, context.bounds)
        return w, state, whole_network()


def mixed(n: PerSample, c: float) -> PerSample:
    """The influence n [B] with only so much of itself in it, see `Degraded`."""
    apart = n - n.mean()
    return n.mean() + c**2 * apart + c * (1 - c**2) ** 0.5 * jnp.roll(apart, -1)
