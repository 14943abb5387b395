"""`Full`: the influence of the whole network on every sample, exactly.

| symbol | meaning                                                          | shape |
|--------|------------------------------------------------------------------|-------|
| s0     | change of each loss by the momentum step, `G u(0)`               | [B]   |
| n      | minus the change by the gradient response, `-G (u(q) - u(0))`    | [B]   |
| w      | sample weights, from s0 and n for each sample                    | [B]   |

Derived in docs/mathematics_games.md, "The implicit game".
"""

import dataclasses

import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import PerSample
from gtddp_jax.implicit.weighting.base import (
    FACTORS,
    SampleWeighting,
    WeightingContext,
    WeightPrediction,
    weights_of_influence,
)


@dataclasses.dataclass(frozen=True)
class Full(SampleWeighting):
    """Predict with all parameters, by directional derivatives of the losses.

    Costs two directional derivatives and a second backward pass per step. It makes no use of the
    model's structure, so it includes parameters that `Sketch` leaves out.

    Args:
        factors: as in `Sketch`.

    Raises:
        ValueError: `factors` is unknown.

    Example:
        >>> import gtddp_jax as gt
        >>> weighting = gt.weighting.Full()
    """

    factors: str = "flow"

    def __post_init__(self) -> None:
        if self.factors not in FACTORS:
            raise ValueError(f"weighting.{self}: factors must be one of {tuple(FACTORS)}.")

    @override
    def predict_weights(self, context: WeightingContext) -> WeightPrediction:
        return weights_of_influence(context, self.factors, *full_influence(context))


def full_influence(context: WeightingContext) -> tuple[PerSample, PerSample]:
    """s0 and n [B]; s0 is zero where predictions leave the momentum step out."""
    q, jvp_fn = context.losses.linearize_gradient()
    step_parts = context.base.split_update(q)
    # Minus, so that n >= 0 for a step that lowers the loss.
    n = -jvp_fn(step_parts.gradient_response)
    predicts_momentum = context.base.predict_momentum
    s0 = jvp_fn(step_parts.momentum_step) if predicts_momentum else jnp.zeros_like(n)
    return s0, n
