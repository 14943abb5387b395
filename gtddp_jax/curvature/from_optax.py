"""Any optax transformation as a base method (DESIGN §5, last row)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core import arguments
from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import vdot
from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.curvature.base import Curvature, Move, Place, Policy, State
from gtddp_jax.curvature.diagonal import DiagonalPolicy


@dataclasses.dataclass(frozen=True)
class from_optax(Curvature):  # noqa: N801  (a constructor, named as optax names its own)
    """Takes the updates of an optax transformation for -P Q_u.

    P itself, which only rho needs, is taken as one number a player: the Rayleigh quotient
    `-q.(u(q) - u(0)) / q.q` of the base's update u along the stage's gradient, at least 0. That is
    exact for SGD (momentum included); for the others prefer the curvature of their name, if there
    is one.

    The transformation sees one stage at a time. One that looks across layers (clipping by the
    global norm) belongs outside: `optax.chain(optax..., gt.gtddp(...), optax...)`.

    Args:
        base: the transformation, learning rate included.

    Example:
        >>> import gtddp_jax as gt, optax
        >>> curvature = gt.curvature.from_optax(optax.lion(3e-4))
    """

    base: optax.GradientTransformation | optax.MultiSteps

    def __post_init__(self) -> None:
        base = arguments.transformation("curvature.from_optax", self.base)
        object.__setattr__(self, "base", base)

    def init(self, params: Tree, place: Place) -> State:
        """See `Curvature`."""
        del place
        return self.base.init(params)

    def policy(
        self,
        q: Tree,
        state: State,
        params: Tree,
        moves: Mapping[str, Move],
        alpha: PerSample,
        place: Place,
        samples: Samples,
    ) -> Policy:
        """See `Curvature`."""
        del moves, alpha, place, samples
        base: Any = self.base
        step, after = base.update(q, state, params)
        rest, _ = base.update(jax.tree.map(jnp.zeros_like, q), state, params)
        metric = {name: _rayleigh(q[name], step[name], rest[name], params[name]) for name in params}
        return DiagonalPolicy(step, after, metric, base, state, params)


def _rayleigh(q: Tree, step: Tree, rest: Tree, params: Tree) -> Tree:
    square = vdot(q, q)
    along = vdot(q, optax.tree.sub(rest, step))
    quotient = jnp.where(square > 0, jnp.maximum(along, 0) / jnp.where(square > 0, square, 1), 0)
    return jax.tree.map(lambda p: quotient.astype(p.dtype), params)
