"""Which parameters predict: sets of leaves at the end of the network, or the user's own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Tree
from gtddp_jax.simultaneous.order import Use

NAMED = ("auto", "head")


class PlayerSet(NamedTuple):
    """A predicting set.

    Attributes:
        leaves: positions of its leaves in `jax.tree.leaves(params)`.
        fraction: its share of the network's multiply-adds.
    """

    leaves: tuple[int, ...]
    fraction: float

    def select(self, tree: Tree) -> list[Any]:
        """The set's leaves of a tree of parameters."""
        leaves = jax.tree.leaves(tree)
        return [leaves[i] for i in self.leaves]

    def embed(self, part: list[Any], tree: Tree) -> Tree:
        """A tree like `tree` with these leaves in the set's places and zeros elsewhere."""
        leaves, structure = jax.tree.flatten(jax.tree.map(jnp.zeros_like, tree))
        for position, leaf in zip(self.leaves, part, strict=True):
            leaves[position] = leaf
        return jax.tree.unflatten(structure, leaves)


def nested(uses: list[Use]) -> list[PlayerSet]:
    """All tails, shortest first: from each layer with a product to the end of the network."""
    products = sorted({use.first for use in uses if use.flops > 0}, reverse=True)
    total = sum(use.flops for use in uses)
    tails = []
    for start in products:
        leaves = tuple(i for i, use in enumerate(uses) if use.first >= start)
        tails.append(PlayerSet(leaves, sum(uses[i].flops for i in leaves) / total))
    return tails


def candidates(uses: list[Use], cost_limit: float) -> list[PlayerSet]:
    """The head, and the longest tails within a quarter, a half and the whole of the cost limit."""
    tails = nested(uses)
    chosen = tails[:1]
    for share in (0.25, 0.5, 1.0):
        within = [tail for tail in tails if tail.fraction <= share * cost_limit]
        chosen += [tail for tail in within[-1:] if tail not in chosen]
    return chosen


def of_leaves(marks: list[bool], uses: list[Use]) -> PlayerSet:
    """The set of the marked leaves."""
    total = sum(use.flops for use in uses) or 1.0
    leaves = tuple(i for i, mark in enumerate(marks) if mark)
    return PlayerSet(leaves, sum(uses[i].flops for i in leaves) / total)


def resolve(tail: Any, params: Tree, uses: list[Use], cost_limit: float) -> list[PlayerSet]:
    """The sets among which the prediction may choose.

    Args:
        tail: "auto", "head", a path such as "Dense_1" or "decoder/layers/3", a boolean tree (or
            a prefix of one) over the parameters, or a function from parameters to such a tree.
        params: the parameters.
        uses: their uses.
        cost_limit: for "auto", the largest share of multiply-adds.

    Raises:
        ValueError: nothing matches.
    """
    if tail in NAMED if isinstance(tail, str) else False:
        if not any(use.flops > 0 for use in uses):
            raise ValueError(
                f"tail={tail!r}: no parameter of this model takes part in a matrix product or a "
                "convolution. Give a boolean mask over the parameters, or weights='product'."
            )
        return nested(uses)[:1] if tail == "head" else candidates(uses, cost_limit)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    if isinstance(tail, str):
        marks = [path == tail or path.startswith(tail + "/") for path in paths]
    else:
        mask = tail(params) if callable(tail) else tail
        full = jax.tree.map(lambda m, part: jax.tree.map(lambda _: bool(m), part), mask, params)
        marks = jax.tree.leaves(full)
    if not any(marks):
        raise ValueError(
            f"tail={tail!r} selects no parameter. Supported: {NAMED}, a path, a boolean mask. "
            f"Paths of this model: {paths[:20]}{' ...' if len(paths) > 20 else ''}."
        )
    return [of_leaves(marks, uses)]
