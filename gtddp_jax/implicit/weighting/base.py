"""The contract of sample weightings: how the weights w of one step are computed.

docs/implicit.md, "Sample weightings", compares the weightings; docs/mathematics.md, "The implicit
game", derives them.
"""

import abc
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

from gtddp_jax.core.one_line import call_line
from gtddp_jax.core.types import Count, PerSample, Scalar, Tree
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.terminal.scalar_equation import Bounds
from gtddp_jax.tracing.parameter_costs import ParameterCost

WeightingState = TypeVar("WeightingState")
"""The state that a weighting carries between steps, a tree of arrays."""


class Prediction(NamedTuple):
    """What a weighting knew about the step when it chose the weights. Float32 scalars.

    Attributes:
        correlation: correlation over samples between the influence of the predicting parameters
            and that of the whole network, adjusted for the number of samples, a running average
            over calibrations; 0 before the first, and 1 for weightings that predict with the whole
            network.
        kappa: ratio of the whole network's influence to that of the predicting parameters; 1
            likewise.
        kappa_momentum: the same ratio for the momentum step.
        fraction: share of the network's multiply-adds in the predicting parameters.
        trust: factor in [0, 1] by which the weights were moved away from 1.
        response: factor in [0, 1] on the influence n of the base's gradient response.
    """

    correlation: Scalar
    kappa: Scalar
    kappa_momentum: Scalar
    fraction: Scalar
    trust: Scalar
    response: Scalar

    def __repr__(self) -> str:
        return call_line("Prediction", **self._asdict())


def whole_network_prediction() -> Prediction:
    """Return the prediction of a weighting that predicts with the whole network: all ones."""

    def one() -> jax.Array:
        # A new array for each field, because aliased buffers cannot be donated.
        return jnp.full((), 1.0, jnp.float32)

    return Prediction(one(), one(), one(), one(), one(), one())


class WeightingContext(NamedTuple):
    """What a weighting may use in one step.

    Attributes:
        losses: the losses of the batch, linearized at the current parameters.
        base: the base optimizer at its current state.
        bounds: smallest and largest weight, or None.
        step: number of steps so far, int32.
        parameter_costs: traces the model and returns, for each leaf of the parameters, where it is
            used and what that costs.
    """

    losses: LinearizedLosses
    base: BaseOptimizer
    bounds: Bounds
    step: Count
    parameter_costs: Callable[[], Sequence[ParameterCost]]


class SampleWeighting(abc.ABC, Generic[WeightingState]):
    """A rule for the sample weights of a step. Instances are immutable and hold its options.

    Attributes:
        needs_all_players: whether every step takes sums over the whole network. Then sharing the
            adjoints of a `gtddp_jax.Network` pays off; otherwise plain differentiation is cheaper.
        reads_model: whether predictions are made from the adjoints of the operations in which the
            model reads its parameters. Then the losses are `ReadLosses`.
    """

    needs_all_players: ClassVar[bool] = True
    reads_model: ClassVar[bool] = False

    def init_state(self, params: Tree) -> WeightingState:
        """Return the state carried between steps; none by default."""
        del params
        # The empty tree, for weightings without a state.
        return cast(WeightingState, ())

    @abc.abstractmethod
    def compute_weights(
        self, context: WeightingContext, state: WeightingState
    ) -> tuple[PerSample, WeightingState, Prediction]:
        """Return the weights w [B] of this step, the next state and the prediction behind them."""

    def update_state(
        self, context: WeightingContext, state: WeightingState, q: Tree
    ) -> WeightingState:
        """Return the next state, given the weighted gradient `q` that the step uses."""
        del context, q
        return state
