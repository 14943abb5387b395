"""The base optimizer at a fixed state, as a function u(q) of the gradient q."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.jaxprs import is_elementwise
from gtddp_jax.core.safety import tree_where
from gtddp_jax.core.types import Tree
from gtddp_jax.core.xla import delay_until, materialize


class StepParts(NamedTuple):
    """The base optimizer's update u(q), split by its cause.

    Attributes:
        momentum_step: u(0), the update for a zero gradient: momentum, weight decay.
        gradient_response: u(q) - u(0), what the gradient q adds.
    """

    momentum_step: Tree
    gradient_response: Tree


@dataclasses.dataclass(frozen=True)
class BaseOptimizer:
    """The base optimizer at a fixed state, as a function u(q) of the gradient.

    Attributes:
        base: the optax transformation.
        state: its state before the step.
        params: the parameters.
        running_gradient: gradient of the running cost, added to every q.
        extra_args: further keyword arguments of `update`, passed on to `base`.
        predict_momentum: whether predictions include the momentum step u(0).
    """

    base: optax.GradientTransformationExtraArgs
    state: Tree
    params: Tree
    running_gradient: Tree
    extra_args: Mapping[str, object]
    predict_momentum: bool

    def total_gradient(self, q: Tree) -> Tree:
        """The gradient that the base receives: q plus the gradient of the running cost."""
        # In the dtype of q: a running cost in float32 must not promote bfloat16 parameters.
        return jax.tree.map(lambda g, cost: g + cost.astype(g.dtype), q, self.running_gradient)

    def compute_update(self, q: Tree) -> tuple[Tree, Tree]:
        """Return the update u(q) and the base's next state."""
        # Any: optax's own tree type also admits Python numbers.
        base: Any = self.base
        return base.update(self.total_gradient(q), self.state, self.params, **self.extra_args)

    def split_update(self, q: Tree) -> StepParts:
        """Return u(q) as the sum of the momentum step and the gradient response."""
        full_step, _ = self.compute_update(q)
        momentum_step, _ = self.compute_update(jax.tree.map(jnp.zeros_like, q))
        # Both are operands of products, which XLA would slow down by fusing the update into them.
        return StepParts(
            materialize(momentum_step), materialize(optax.tree.sub(full_step, momentum_step))
        )

    def state_after(self, ok: jax.Array, q: Tree) -> Tree:
        """Return the base's state after a step along q where `ok` holds, else the present state.

        `ok` is only known once the whole step has been computed. A new state that waits for it is
        written, read again and written a second time. Where the state takes only one pass over
        its arrays, it is cheaper to compute it again after `ok`: then it is written once.
        """
        if not is_elementwise(lambda q: self.compute_update(q)[1], q):
            return tree_where(ok, self.compute_update(q)[1], self.state)

        # Tied to `ok`, so that XLA cannot merge this update with the earlier one.
        return tree_where(ok, self.compute_update(delay_until(ok, q))[1], self.state)
