"""The arrays that a function has captured from where it was defined, such as the targets of a loss.

They are found in the closure of a Python function, and replaced by giving a copy of the function
other cells. Other callables, such as `functools.partial`, are left alone.
"""

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class CapturedArrays(NamedTuple):
    """The arrays in the closure of a function.

    Attributes:
        arrays: the arrays, also those inside of captured trees.
        with_arrays: makes the function with other arrays in their place.
    """

    arrays: list[Any]
    with_arrays: Callable[[list[Any]], Callable[..., Any]]


def captured_arrays(function: Callable[..., Any]) -> CapturedArrays | None:
    """The arrays in the closure of a function; None if there are none or nobody can tell."""
    if not isinstance(function, types.FunctionType) or not function.__closure__:
        return None
    try:
        contents = [cell.cell_contents for cell in function.__closure__]
        leaves, structure = jax.tree.flatten(contents)
    except (ValueError, TypeError):  # a cell that is still empty, keys that cannot be sorted
        return None
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))]

    def with_arrays(arrays: list[Any]) -> Callable[..., Any]:
        new_leaves = list(leaves)
        for position, array in zip(positions, arrays, strict=True):
            new_leaves[position] = array
        cells = tuple(types.CellType(x) for x in jax.tree.unflatten(structure, new_leaves))
        copy = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            cells,
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        return copy

    return CapturedArrays([leaves[i] for i in positions], with_arrays) if positions else None
