"""The running cost: what a step adds to the losses of the samples, such as a regularizer."""

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import add_trees
from gtddp_jax.core.types import Tree


def total_running_gradient(
    updates: Tree | None, regularizer_gradient: Tree | None, params: Tree
) -> Tree:
    """The gradient of all costs that are not weighted.

    Args:
        updates: the gradient that `update` received, or None.
        regularizer_gradient: the gradient of the regularizer of `gt.Losses`; None without one.
        params: the parameters.
    """
    total = add_trees(updates, regularizer_gradient)
    return jax.tree.map(jnp.zeros_like, params) if total is None else total
