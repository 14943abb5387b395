"""Any optax transformation as a base method."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core import validation
from gtddp_jax.core.trees import tree_vdot
from gtddp_jax.core.types import PlayerTrees, Tree
from gtddp_jax.curvature.base import Curvature, CurvatureState, Policy, StageInputs
from gtddp_jax.curvature.diagonal import DiagonalPolicy, step_by_player
from gtddp_jax.network.protocol import StageIndex


@dataclasses.dataclass(frozen=True)
class FromOptax(Curvature):
    """Takes the updates of an optax transformation for `-P Q_u`.

    The transformation does not say what P is. Feedback needs it only for rho, and estimates it as
    one number per player: the Rayleigh quotient `-q . (u(q) - u(0)) / q . q` of the update u along
    the player's gradient q, at least 0. This is exact for SGD, with or without momentum. For other
    methods prefer the curvature of that name, such as `gtddp_jax.curvature.Adam`.

    The transformation sees one stage at a time. Transformations that need all layers, such as
    clipping by the global norm, belong outside: `optax.chain(optax..., gt.gtddp(...), optax...)`.

    Args:
        base: the transformation, learning rate included.

    Raises:
        ValueError: `base` is not an optax transformation.

    Example:
        >>> import gtddp_jax as gt, optax
        >>> curvature = gt.curvature.FromOptax(optax.lion(3e-4))
    """

    base: optax.GradientTransformation | optax.MultiSteps

    def __post_init__(self) -> None:
        base = validation.as_transformation("curvature.FromOptax", self.base)
        # The dataclass is frozen; this is its constructor.
        object.__setattr__(self, "base", base)

    @override
    def init(self, params: PlayerTrees, stage_index: StageIndex) -> CurvatureState:
        del stage_index
        return self.base.init(params)

    @override
    def policy(self, inputs: StageInputs, state: CurvatureState) -> Policy:
        transformation: Any = self.base  # `__post_init__` has replaced MultiSteps
        gradient, params = inputs.gradient, inputs.params
        step, after = step_by_player(transformation, gradient, state, params)
        # Momentum and weight decay move the parameters without a gradient; that is not part of P.
        zeros = jax.tree.map(jnp.zeros_like, gradient)
        step_at_zero, _ = step_by_player(transformation, zeros, state, params)
        diagonal = {
            name: _rayleigh_quotient(gradient[name], step[name], step_at_zero[name], params[name])
            for name in params
        }
        return DiagonalPolicy(step, after, diagonal, transformation, state, inputs)


def _rayleigh_quotient(gradient: Tree, step: Tree, step_at_zero: Tree, params: Tree) -> Tree:
    """`-q . (u(q) - u(0)) / q . q` as a multiple of the identity for every leaf."""
    squared_norm = tree_vdot(gradient, gradient)
    along = tree_vdot(gradient, optax.tree.sub(step_at_zero, step))
    # Without a gradient there is nothing to estimate P from: it counts as 0, without feedback.
    divisor = jnp.where(squared_norm > 0, squared_norm, 1)
    # A negative quotient would give rho < 0, and feedback that amplifies changes.
    quotient = jnp.where(squared_norm > 0, jnp.maximum(along, 0) / divisor, 0)
    return jax.tree.map(lambda leaf: quotient.astype(leaf.dtype), params)
