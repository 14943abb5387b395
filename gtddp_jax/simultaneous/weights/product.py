"""`product`: one product N 1, then a scalar equation for each sample (DESIGN §4)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import vdot
from gtddp_jax.core.types import Number, PerSample, Tree
from gtddp_jax.simultaneous.base_method import BaseMethod
from gtddp_jax.simultaneous.linearised import Push
from gtddp_jax.simultaneous.weights.base import (
    Context,
    Prediction,
    State,
    WeightModel,
    whole_network,
)
from gtddp_jax.terminal.solve import scalar_weights

MOMENTUM = 10.0
"""A drift of a tenth of the answer to the gradient counts as momentum."""


class Influence(NamedTuple):
    """What the base's step does to each sample's loss, to first order.

    Attributes:
        s0: by the drift, `G u(0)` [B]; zero where the prediction leaves it out.
        n: by the answer to the gradient, `-G (u(q) - u(0))` [B].
        share: the factor on n, see `product` and `tail`.
    """

    s0: PerSample
    n: PerSample
    share: jax.Array


def influence(base: BaseMethod, q: Tree, push: Push, select: Any, response: Any) -> Influence:
    """The influence of the selected players.

    With `response="auto"` the share is `min(1, 10 |u(0)| / |u(q) - u(0)|)`, sizes in parameter
    space: 1 for a base with momentum, 0 for one without. An implicit step is slower than an
    explicit one wherever the explicit one does not overshoot, and what overshoots in practice is
    momentum.

    Args:
        base: the base method.
        q: a gradient; what is not selected may be anything.
        push: selected leaves of a change -> change of each loss.
        select: picks those leaves.
        response: a number, or "auto".
    """
    rest, answer = (select(tree) for tree in base.split(q))
    n = -push(answer)
    s0 = push(rest) if base.drift else jnp.zeros_like(n)
    if response != "auto":
        return Influence(s0, n, jnp.asarray(response, n.dtype))
    size = vdot(answer, answer)
    ratio = jnp.sqrt(vdot(rest, rest) / jnp.where(size > 0, size, 1.0))
    return Influence(s0, n, jnp.minimum(1.0, MOMENTUM * ratio).astype(n.dtype))


def check_response(model: str, response: Any) -> None:
    """Refuses what is neither "auto" nor a number in [0, 1]."""
    number = isinstance(response, (int, float)) and not isinstance(response, bool)
    if response != "auto" and not (number and 0 <= response <= 1):
        raise ValueError(
            f'weights.{model}(response={response!r}): give a number in [0, 1] or "auto".'
        )


@dataclasses.dataclass(frozen=True)
class product(WeightModel):  # noqa: N801  (a constructor)
    """The whole network predicts: `w = psi'(s0 - n w)` with `n = (1/B) N 1`.

    Costs two directional derivatives and a second backward pass.

    Args:
        response: factor on n in [0, 1], or "auto": 1 for a base with momentum, 0 for one without
            (see `influence`).

    Raises:
        ValueError: `response` out of its range.

    Example:
        >>> import gtddp_jax as gt
        >>> weights = gt.weights.product()
    """

    response: str | Number = 1.0

    def __post_init__(self) -> None:
        check_response("product", self.response)

    def weights(self, context: Context, state: State) -> tuple[PerSample, State, Prediction]:
        """See `WeightModel`."""
        q, push = context.model.part(lambda tree: tree)
        s0, n, share = influence(context.base, q, push, lambda tree: tree, self.response)
        w = scalar_weights(context.model.expansion, s0, share * n, context.bounds)
        return w, state, whole_network()._replace(response=share.astype(jnp.float32))
