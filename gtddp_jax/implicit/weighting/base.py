"""The contract of sample weightings: how the weights w of one step are computed.

docs/implicit.md, "Sample weightings", compares the weightings; docs/mathematics_games.md, "The
implicit game", derives them.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from gtddp_jax.core.types import Count, PerSample
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.terminal.gradient_flow import integrate_sample_weights
from gtddp_jax.terminal.scalar_equation import Bounds, solve_sample_weights

FACTORS = {"flow": integrate_sample_weights, "implicit": solve_sample_weights}
"""How the weight of a sample follows from s0 and n, by name."""


class WeightingContext(NamedTuple):
    """What a weighting may use in one step.

    Attributes:
        losses: the losses of the batch, linearized at the current parameters.
        base: the base optimizer at its current state.
        bounds: smallest and largest weight, or None.
        step: number of steps so far, int32.
    """

    losses: LinearizedLosses
    base: BaseOptimizer
    bounds: Bounds
    step: Count


class WeightPrediction(NamedTuple):
    """The weights, and the changes of the losses that they were chosen for.

    Attributes:
        weights: w [B].
        shift: from weights [B] to the predicted first-order change of each loss, s(w) [B].
    """

    weights: PerSample
    shift: Callable[[PerSample], PerSample]


class SampleWeighting(abc.ABC):
    """A rule for the sample weights of a step. Instances are immutable and hold its options.

    Attributes:
        reads_model: whether predictions are made from the adjoints of the operations in which the
            model reads its parameters. Then the losses are `ReadLosses`.
    """

    reads_model: ClassVar[bool] = False

    @abc.abstractmethod
    def predict_weights(self, context: WeightingContext) -> WeightPrediction:
        """The weights w [B] of this step, and what they were chosen for."""


def weights_of_influence(
    context: WeightingContext, factors: str, s0: PerSample, n: PerSample
) -> WeightPrediction:
    """The weights that follow from s0 and n, sample by sample.

    Args:
        context: what a weighting may use.
        factors: a name in `FACTORS`.
        s0: the changes of the losses by the momentum step, [B].
        n: minus their changes by the gradient response for weights of 1, [B].
    """
    w = FACTORS[factors](context.losses.expansion, s0, n, context.bounds)
    return WeightPrediction(w, lambda w: s0 - n * w)
