"""The metric M of the proximal term `lambda / 2 (d - d0)^T M (d - d0)`: a positive diagonal.

| name             | M                                                                         |
|------------------|---------------------------------------------------------------------------|
| `IdentityMetric` | 1                                                                         |
| `AdamMetric`     | `sqrt(nu_hat) + eps`, nu the running mean of the squared mean gradient    |
| `RMSPropMetric`  | `sqrt(nu + eps)`, likewise                                                |
| `MARCHMetric`    | `(v^(1/4) + eps)^2`, v the decayed sum of squared changes of the direction |
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core.types import Count, Tree

__all__ = ["AdamMetric", "IdentityMetric", "MARCHMetric", "Metric", "RMSPropMetric"]


class Metric(abc.ABC):
    """A rule for M: immutable; what it remembers is its state."""

    def init(self, params: Tree) -> Tree:
        """The state before the first step."""
        del params
        return ()

    @property
    def needs_gradient(self) -> bool:
        """Whether `update` uses the gradient, which costs a reverse pass."""
        return True

    @abc.abstractmethod
    def update(self, gradient: Tree | None, state: Tree, count: Count) -> tuple[Tree | None, Tree]:
        """M of this step, a tree like the parameters (None for the identity), and the next state.

        Args:
            gradient: of the objective; None unless `needs_gradient`.
            state: from `init` or the last step.
            count: number of steps so far.
        """

    def remember(self, state: Tree, direction: Tree) -> Tree:
        """The state after a step in this direction."""
        del direction
        return state


@dataclasses.dataclass(frozen=True)
class IdentityMetric(Metric):
    """M = 1."""

    @property
    @override
    def needs_gradient(self) -> bool:
        return False

    @override
    def update(self, gradient: Tree | None, state: Tree, count: Count) -> tuple[None, Tree]:
        del gradient, count
        return None, state


@dataclasses.dataclass(frozen=True)
class AdamMetric(Metric):
    """`M = sqrt(nu_hat) + eps`, the denominator of `optax.adam`.

    Args:
        b2: decay of the running mean nu of the squared gradient.
        eps: added to the root; it bounds how far M differs between parameters.
        bias_correction: whether nu is corrected for its start at zero.

    Example:
        >>> import gtddp_jax as gt
        >>> metric = gt.metrics.AdamMetric(b2=0.99)
    """

    b2: float = 0.999
    eps: float = 1e-8
    bias_correction: bool = True

    @override
    def init(self, params: Tree) -> Tree:
        return jax.tree.map(jnp.zeros_like, params)

    @override
    def update(self, gradient: Tree | None, state: Tree, count: Count) -> tuple[Tree, Tree]:
        moments: Any = optax.tree.update_moment(gradient, state, self.b2, 2)
        corrected = moments
        if self.bias_correction:
            corrected = optax.tree.bias_correction(moments, self.b2, count + 1)
        return jax.tree.map(lambda nu: jnp.sqrt(nu) + self.eps, corrected), moments


@dataclasses.dataclass(frozen=True)
class RMSPropMetric(Metric):
    """`M = sqrt(nu + eps)`, the denominator of `optax.rmsprop`.

    Args:
        decay: of the running mean nu of the squared gradient.
        eps: added to nu.

    Example:
        >>> import gtddp_jax as gt
        >>> metric = gt.metrics.RMSPropMetric(decay=0.99)
    """

    decay: float = 0.9
    eps: float = 1e-8

    @override
    def init(self, params: Tree) -> Tree:
        return jax.tree.map(jnp.zeros_like, params)

    @override
    def update(self, gradient: Tree | None, state: Tree, count: Count) -> tuple[Tree, Tree]:
        del count
        moments: Any = optax.tree.update_moment(gradient, state, self.decay, 2)
        return jax.tree.map(lambda nu: jnp.sqrt(nu + self.eps), moments), moments


@dataclasses.dataclass(frozen=True)
class MARCHMetric(Metric):
    """`M = (v^(1/4) + eps)^2`, the metric of MARCH (Gu et al. 2025) for neural quantum states.

    v is the decayed sum of the squared changes of the direction from one step to the next:
    `v = decay v + (d - d_last)^2`. M is 1 until there are two directions. MARCH itself has
    momentum 0.95 and a fixed rate.

    Args:
        decay: of the sum v.
        eps: added to the root.

    Example:
        >>> import gtddp_jax as gt
        >>> rule = gt.step_control.FixedRate(0.1)
        >>> tx = gt.joint(lambda w, x: w @ x, 1e-3, 0.95, gt.metrics.MARCHMetric(), rule)
    """

    decay: float = 0.995
    eps: float = 1e-8

    @override
    def init(self, params: Tree) -> Tree:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"square": zeros, "direction": jax.tree.map(jnp.copy, zeros)}

    @property
    @override
    def needs_gradient(self) -> bool:
        return False

    @override
    def update(self, gradient: Tree | None, state: Tree, count: Count) -> tuple[Tree, Tree]:
        del gradient, count
        kept: Any = state
        unknown = jnp.stack([(v == 0).all() for v in jax.tree.leaves(kept["square"])]).all()

        def metric(v: jax.Array) -> jax.Array:
            return jnp.where(unknown, 1.0, jnp.square(jnp.sqrt(jnp.sqrt(v)) + self.eps))

        return jax.tree.map(metric, kept["square"]), state

    @override
    def remember(self, state: Tree, direction: Tree) -> Tree:
        kept: Any = state

        def add(v: jax.Array, new: jax.Array, last: jax.Array) -> jax.Array:
            return self.decay * v + jnp.square(new - last)

        square = jax.tree.map(add, kept["square"], direction, kept["direction"])
        return {"square": square, "direction": direction}
