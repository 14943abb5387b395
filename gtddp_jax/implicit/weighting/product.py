"""`Product`: one product N 1, then a scalar equation per sample.

| symbol | meaning                                                          | shape |
|--------|------------------------------------------------------------------|-------|
| s0     | change of each loss by the momentum step, `G u(0)`               | [B]   |
| n      | minus the change by the gradient response, `-G (u(q) - u(0))`    | [B]   |
| w      | sample weights, `w = psi'(s0 - n w)`                             | [B]   |

Derived in docs/mathematics.md, "The implicit game".
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.trees import tree_vdot
from gtddp_jax.core.types import Number, PerSample, Scalar, Tree
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.linearized_losses import JvpFn
from gtddp_jax.implicit.weighting.base import (
    Prediction,
    SampleWeighting,
    WeightingContext,
    whole_network_prediction,
)
from gtddp_jax.terminal.scalar_equation import solve_sample_weights

MOMENTUM_GAIN = 10.0
"""A momentum step of at least a tenth of the gradient response counts as full momentum."""


class StepInfluence(NamedTuple):
    """First-order change of each sample's loss by the base's step.

    Attributes:
        s0: by the momentum step, `G u(0)` [B]; zero where predictions leave it out.
        n: by the gradient response, `-G (u(q) - u(0))` [B].
        response_factor: factor on n, see `step_influence`.
    """

    s0: PerSample
    n: PerSample
    response_factor: Scalar


def step_influence(
    base: BaseOptimizer,
    q: Tree,
    jvp_fn: JvpFn,
    select: Callable[[Tree], Tree],
    response: str | Number,
) -> StepInfluence:
    """Compute the influence of the selected parameters.

    With `response="auto"` the factor is `min(1, 10 |u(0)| / |u(q) - u(0)|)`, norms in parameter
    space: 1 for a base with momentum, 0 for one without. An implicit step is slower than an
    explicit one unless the explicit one overshoots, and in practice it is momentum that overshoots.

    Args:
        base: the base optimizer.
        q: a gradient; leaves that are not selected are ignored.
        jvp_fn: maps the selected leaves of a parameter change to the change of each loss, [B].
        select: picks these leaves.
        response: a number, or "auto".
    """
    step_parts = base.split_update(q)
    momentum_step, gradient_response = (
        select(step_parts.momentum_step),
        select(step_parts.gradient_response),
    )
    # Minus, so that n >= 0 for a step that lowers the loss.
    n = -jvp_fn(gradient_response)
    s0 = jvp_fn(momentum_step) if base.predict_momentum else jnp.zeros_like(n)
    if response != "auto":
        return StepInfluence(s0, n, jnp.asarray(response, n.dtype))
    square = tree_vdot(gradient_response, gradient_response)
    # A base that does not respond, as MultiSteps between its updates, must not divide by zero.
    ratio = jnp.sqrt(tree_vdot(momentum_step, momentum_step) / jnp.where(square > 0, square, 1.0))
    return StepInfluence(s0, n, jnp.minimum(1.0, MOMENTUM_GAIN * ratio).astype(n.dtype))


def check_response(weighting: str, response: object) -> None:
    """Raise `ValueError` unless `response` is "auto" or a number in [0, 1]."""
    if isinstance(response, (int, float)) and not isinstance(response, bool) and 0 <= response <= 1:
        return
    if response != "auto":
        raise ValueError(
            f'weighting.{weighting}(response={response!r}): pass a number in [0, 1] or "auto".'
        )


@dataclasses.dataclass(frozen=True)
class Product(SampleWeighting[tuple[()]]):
    """Predict with the whole network: `w = psi'(s0 - n w)` with `n = (1/B) N 1`.

    Costs two directional derivatives and a second backward pass per step.

    Args:
        response: factor on n in [0, 1], or "auto": 1 for a base with momentum, 0 for one without.

    Raises:
        ValueError: `response` is out of range.

    Example:
        >>> import gtddp_jax as gt
        >>> weighting = gt.weighting.Product()
    """

    response: str | Number = 1.0

    def __post_init__(self) -> None:
        check_response("Product", self.response)

    @override
    def compute_weights(
        self, context: WeightingContext, state: tuple[()]
    ) -> tuple[PerSample, tuple[()], Prediction]:
        # Nothing is left out: the whole network predicts.
        q, jvp_fn = context.losses.restrict(lambda tree: tree)
        s0, n, response_factor = step_influence(
            context.base, q, jvp_fn, lambda tree: tree, self.response
        )
        w = solve_sample_weights(context.losses.expansion, s0, response_factor * n, context.bounds)
        return (
            w,
            state,
            whole_network_prediction()._replace(response=response_factor.astype(jnp.float32)),
        )
