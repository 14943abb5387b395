"""The base optimizer on blocks of the parameters.

A base that computes its update entry by entry gives a block of the update from blocks of the
gradient, the state and the parameters. Anything else, such as clipping by the norm of the gradient,
needs the whole gradient.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.jaxprs import ContainedProgram
from gtddp_jax.core.types import Tree
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.tracing.axis_labels import AxisLabels
from gtddp_jax.tracing.axis_rules import Consumed, program_axes
from gtddp_jax.tracing.cuts import Cut


def is_entrywise(base: BaseOptimizer) -> bool:
    """Whether each entry of the update depends on the same entry of the gradient alone."""
    closed = jax.make_jaxpr(base.predict_update)(base.params)
    labels, consumed = AxisLabels(), Consumed()
    inputs = [labels.new_axes(variable.aval.shape) for variable in closed.jaxpr.invars]
    outputs = program_axes(labels, ContainedProgram(closed.jaxpr, closed.consts), inputs, consumed)
    entries = {label for axes in inputs for axis in axes for label in labels.resolve(axis)}
    if any(entries.intersection(labels.resolve(axis)) for axis in consumed):
        return False

    def resolve(axes: Any) -> list[Any]:
        return [labels.resolve(axis) for axis in axes]

    return len(outputs) == len(inputs) and all(
        resolve(one) == resolve(other) for one, other in zip(inputs, outputs, strict=True)
    )


def cut_base(base: BaseOptimizer, cuts: Sequence[Cut]) -> BaseOptimizer | None:
    """The base on a block of each leaf; None if a part of its state has another form.

    Args:
        base: a base for which `is_entrywise` holds.
        cuts: the block of each leaf of the parameters.
    """
    leaves = jax.tree_util.tree_leaves_with_path(base.params)
    cut_of_path = {
        path: (jnp.shape(leaf), cut) for (path, leaf), cut in zip(leaves, cuts, strict=True)
    }
    state_leaves, structure = jax.tree_util.tree_flatten_with_path(base.state)
    parts = []
    for path, leaf in state_leaves:
        cut = _find_cut(cut_of_path, path, jnp.shape(leaf))
        if cut is None and jnp.ndim(leaf):
            return None
        parts.append(leaf if cut is None else cut.part(leaf))

    def part_of(tree: Tree) -> Tree:
        flat, tree_structure = jax.tree.flatten(tree)
        cut_leaves = [cut.part(leaf) for cut, leaf in zip(cuts, flat, strict=True)]
        return jax.tree.unflatten(tree_structure, cut_leaves)

    return dataclasses.replace(
        base,
        state=jax.tree.unflatten(structure, parts),
        params=part_of(base.params),
        running_gradient=part_of(base.running_gradient),
    )


def _find_cut(
    cut_of_path: Mapping[Any, tuple[tuple[int, ...], Cut]], path: Any, shape: tuple[int, ...]
) -> Cut | None:
    """The cut of the parameter that a leaf of the state belongs to: its path ends with the same."""
    for start in range(len(path) + 1):
        found = cut_of_path.get(tuple(path[start:]))
        if found is not None and found[0] == shape:
            return found[1]
    return None
