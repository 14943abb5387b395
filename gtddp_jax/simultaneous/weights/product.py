"""`product`: one product N 1, then a scalar equation for each sample (DESIGN §4)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.simultaneous.base_method import BaseMethod
from gtddp_jax.simultaneous.linearised import Push
from gtddp_jax.simultaneous.solve import scalar_weights
from gtddp_jax.simultaneous.weights.base import (
    Context,
    Prediction,
    State,
    WeightModel,
    whole_network,
)

Tree = Any


def influence(base: BaseMethod, q: Tree, push: Push, select: Any) -> tuple[jax.Array, jax.Array]:
    """`s0 = G u(0)` and `n = -G (u(q) - u(0))`, each [B], for the selected players.

    Args:
        base: the base method.
        q: a gradient; what is not selected may be anything.
        push: selected leaves of a change -> change of each loss.
        select: picks those leaves.
    """
    rest, response = base.split(q)
    n = -push(select(response))
    return (push(select(rest)) if base.drift else jnp.zeros_like(n)), n


@dataclasses.dataclass(frozen=True)
class product(WeightModel):  # noqa: N801  (a constructor)
    """The whole network predicts: `w = psi'(s0 - n w)` with `n = (1/B) N 1`.

    Costs two directional derivatives and a second backward pass.

    Example:
        >>> import gtddp_jax as gt
        >>> weights = gt.weights.product()
    """

    def weights(self, context: Context, state: State) -> tuple[jax.Array, State, Prediction]:
        """See `WeightModel`."""
        q, push = context.model.part(lambda tree: tree)
        s0, n = influence(context.base, q, push, lambda tree: tree)
        w = scalar_weights(context.model.expansion, s0, n, context.bounds)
        return w, state, whole_network()
