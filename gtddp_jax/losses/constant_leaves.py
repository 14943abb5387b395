"""Models whose trees hold more than parameters, such as the functions of an Equinox module."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def split_constants(model: Any) -> tuple[Any, Callable[[Any], Any]]:
    """What a model trains, and a function that puts the rest back.

    As for `equinox.filter_grad`, floating-point arrays are trained. A tree of arrays and Python
    floats alone is a tree of parameters and stays as it is.

    Args:
        model: a tree.

    Returns:
        The tree with None in the place of what is not trained, and a function from such a tree to
        one like `model`.
    """
    if all(_is_array(leaf) or isinstance(leaf, float) for leaf in jax.tree.leaves(model)):
        return model, lambda trained: trained
    trained = jax.tree.map(lambda leaf: leaf if _is_trained(leaf) else None, model)

    def put_back(trained: Any) -> Any:
        return jax.tree.map(
            lambda leaf, constant: constant if leaf is None else leaf,
            trained,
            model,
            is_leaf=lambda node: node is None,
        )

    return trained, put_back


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _is_trained(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
