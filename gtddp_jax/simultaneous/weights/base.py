"""The contract of weight models: how w is found (DESIGN §4, "the implicit game")."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Count, Outputs, PerSample, Scalar, Tree
from gtddp_jax.simultaneous.base_method import BaseMethod
from gtddp_jax.simultaneous.linearised import Linearised
from gtddp_jax.terminal.solve import Bounds

State: TypeAlias = Tree


class Prediction(NamedTuple):
    """What a weight model knew when it chose the weights. Scalars, float32 unless said.

    Attributes:
        correlation: of the predicted influence n with the whole network's, at the last
            calibration; 1 for models that use the whole network.
        kappa: ratio of the whole network's influence to the predicting set's; 1 likewise.
        kappa_drift: the same for the drift s0.
        fraction: share of the network's multiply-adds in the predicting set.
        trust: factor in [0, 1] by which the model moved its weights from 1.
        radius: bound on the shift of the outputs, in output units; 0 where the model has none.
        response: factor in [0, 1] on the base's answer to the gradient, n.
    """

    correlation: Scalar
    kappa: Scalar
    kappa_drift: Scalar
    fraction: Scalar
    trust: Scalar
    radius: Scalar
    response: Scalar


def whole_network() -> Prediction:
    """The prediction of a model that uses every player."""

    def number(value: float) -> jax.Array:
        """A new array each time: a buffer that stands twice in a state cannot be donated."""
        return jnp.full((), value, jnp.float32)

    return Prediction(*(number(1.0) for _ in range(5)), radius=number(0.0), response=number(1.0))


class Context(NamedTuple):
    """What a step gives to a weight model.

    Attributes:
        model: the linearised network.
        base: the base method.
        bounds: smallest and largest weight, or None.
        step: number of steps so far, int32.
        loss: outputs -> [B].
        order: traces the network: for each leaf of the parameters, when it acts and its cost.
    """

    model: Linearised
    base: BaseMethod
    bounds: Bounds
    step: Count
    loss: Callable[[Outputs], PerSample]
    order: Callable[[], Any]


class WeightModel(abc.ABC):
    """Immutable options; makes the weights of one step.

    Attributes:
        whole: whether every step asks for sums over the whole network. It pays then to share the
            adjoints of a `Network`; otherwise plain differentiation is cheaper.
    """

    whole: ClassVar[bool] = True

    def init(self, params: Tree) -> State:
        """State carried between steps; none by default."""
        del params
        return ()

    def learn(self, context: Context, state: State, q: Tree) -> State:
        """The next state, once the weighted gradient `q` is known."""
        del context, q
        return state

    @abc.abstractmethod
    def weights(self, context: Context, state: State) -> tuple[PerSample, State, Prediction]:
        """The weights w [B] of this step, the next state and the report."""
