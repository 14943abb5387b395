"""The base optimizer at a fixed state, as a function u(q) of the gradient q.

Predictions and the step use the same u, except while the base accumulates gradients
(`optax.MultiSteps`): then predictions use the u of the optimizer inside, which responds to every
mini-batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.optax_base import OptaxBase
from gtddp_jax.core.types import Scalar, Tree


class StepParts(NamedTuple):
    """The base optimizer's update u(q), split by its cause.

    Attributes:
        momentum_step: u(0), the update for a zero gradient: momentum, weight decay; zero where it
            is not finite.
        gradient_response: u(q) - u(0), what the gradient q adds.
    """

    momentum_step: Tree
    gradient_response: Tree


@dataclasses.dataclass(frozen=True)
class BaseOptimizer:
    """The base optimizer at a fixed state, as a function u(q) of the gradient.

    Attributes:
        base: the transformation, with its accumulation taken apart.
        state: its state before the step.
        params: the parameters.
        running_gradient: gradient of the running cost, added to every q.
        mean_loss: mean loss of the batch, for bases that need a `value`.
        extra_args: further keyword arguments of `update`, passed on to `base`.
        predict_momentum: whether predictions include the momentum step u(0).
    """

    base: OptaxBase
    state: Tree
    params: Tree
    running_gradient: Tree
    mean_loss: Scalar
    extra_args: Mapping[str, object]
    predict_momentum: bool

    def total_gradient(self, q: Tree) -> Tree:
        """The gradient that the base receives: q plus the gradient of the running cost."""
        # In the dtype of q: a running cost in float32 must not promote bfloat16 parameters.
        return jax.tree.map(lambda g, cost: g + cost.astype(g.dtype), q, self.running_gradient)

    def compute_update(self, q: Tree) -> tuple[Tree, Tree]:
        """Return the update for q that the step takes, and the base's next state."""
        gradient = self.total_gradient(q)
        return self.base.compute_update(
            gradient, self.state, self.params, self._arguments(gradient)
        )

    def predict_update(self, q: Tree) -> Tree:
        """Return u(q) for predictions."""
        gradient = self.total_gradient(q)
        return self.base.predict_update(
            gradient, self.state, self.params, self._arguments(gradient)
        )

    def _arguments(self, gradient: Tree) -> Mapping[str, object]:
        """The keyword arguments of the base; the user's own come first."""
        return {"value": self.mean_loss, "grad": gradient, **self.extra_args}

    def split_update(self, q: Tree) -> StepParts:
        """Return u(q) as the sum of the momentum step and the gradient response."""
        full_step = self.predict_update(q)
        # A base that divides by the norm of the gradient has no step for a zero gradient.
        momentum_step = jax.tree.map(
            lambda u: jnp.where(jnp.isfinite(u), u, jnp.zeros_like(u)),
            self.predict_update(jax.tree.map(jnp.zeros_like, q)),
        )
        return StepParts(momentum_step, optax.tree.sub(full_step, momentum_step))
