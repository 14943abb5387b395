"""SOAP (Vyas et al. 2024) as an optax transformation, for networks without stages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.curvature.soap.axis_bases import axes_with_basis
from gtddp_jax.curvature.soap.leaf_step import (
    Decays,
    LeafState,
    init_leaf,
    refresh_bases,
    step_leaf,
)

MAX_AXIS = 10_000
"""Axes longer than this have no basis, as in `gtddp_jax.curvature.SOAP`."""


class SoapState(NamedTuple):
    """State of `scale_by_soap`.

    Attributes:
        step_count: int32, number of gradients so far.
        leaves: state of each array of the parameters, in the order of `jax.tree.leaves`.
    """

    step_count: jax.Array
    leaves: tuple[LeafState, ...]


def scale_by_soap(b1: float = 0.95, b2: float = 0.95, every: int = 10) -> Any:
    """SOAP's direction, as an optax transformation. The first one is zero.

    Args:
        b1: decay of the mean of gradients.
        b2: decay of the mean of squares and of the Gram matrices.
        every: number of steps between two refreshes of the bases.
    """
    decays = Decays(b1, b2, b2, 1e-8)

    def init(params: Any) -> SoapState:
        leaves = jax.tree.leaves(params)
        states = [init_leaf(leaf, axes_with_basis(leaf.shape, MAX_AXIS)) for leaf in leaves]
        return SoapState(jnp.int32(0), tuple(states))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        leaves, structure = jax.tree.flatten(updates)
        axes = [axes_with_basis(leaf.shape, MAX_AXIS) for leaf in leaves]
        steps = [
            step_leaf(leaf, before, leaf_axes, state.step_count, decays)
            for leaf, before, leaf_axes in zip(leaves, state.leaves, axes, strict=True)
        ]
        after = refresh_bases([step.state for step in steps], axes, state.step_count, every)
        directions = jax.tree.unflatten(structure, [step.direction for step in steps])
        return directions, SoapState(state.step_count + 1, after)

    return optax.GradientTransformation(init, update)
