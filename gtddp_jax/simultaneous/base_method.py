"""The base optimizer as a function of the gradient, u(q), at its present state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

Tree = Any


@dataclasses.dataclass(frozen=True)
class BaseMethod:
    """u(q): the update that the base would make for the gradient q. Its state does not advance.

    Attributes:
        base: the optax transformation.
        state: its state before the step.
        params: the parameters.
        running: the gradient of the running cost, added to every q.
        extra: further keyword arguments of `update`, passed on.
        drift: whether the base moves without a new gradient (u(0): momentum, weight decay) as far
            as the prediction is concerned.
    """

    base: optax.GradientTransformationExtraArgs
    state: Any
    params: Tree
    running: Tree
    extra: dict[str, Any]
    drift: bool

    def total(self, q: Tree) -> Tree:
        """What the base sees: q and the gradient of the running cost."""
        return jax.tree.map(lambda g, cost: g + cost.astype(g.dtype), q, self.running)

    def step(self, q: Tree) -> tuple[Tree, Any]:
        """The update for q and the base's next state."""
        return self.base.update(self.total(q), self.state, self.params, **self.extra)

    def split(self, q: Tree) -> tuple[Tree, Tree]:
        """u(q) as `(u(0), u(q) - u(0))`: drift and response."""
        moved, _ = self.step(q)
        rest, _ = self.step(jax.tree.map(jnp.zeros_like, q))
        return rest, optax.tree.sub(moved, rest)
