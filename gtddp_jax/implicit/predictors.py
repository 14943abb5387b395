"""Which parameters predict the step: the end of the network, or the user's choice."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Tree
from gtddp_jax.tracing.parameter_costs import ParameterCost

PREDICTOR_NAMES = ("auto", "head")

# Static checkers treat jaxtyping's PyTree as Any; the run-time check cannot use recursive types.
if TYPE_CHECKING:
    MaskTree: TypeAlias = bool | Tree | Mapping[str, "MaskTree"] | Sequence["MaskTree"]
else:
    MaskTree = Tree
PredictorMask: TypeAlias = MaskTree | Callable[[Tree], MaskTree]
"""A tree of booleans (or a prefix of one) over the parameters, or a function that returns one."""


class PredictorSet(NamedTuple):
    """Parameters that predict.

    Attributes:
        leaves: positions of the set's leaves in `jax.tree.leaves(params)`.
        fraction: share of the set in the network's multiply-adds.
    """

    leaves: tuple[int, ...]
    fraction: float

    def select_leaves(self, tree: Tree) -> list[Any]:
        """Return the set's leaves of a tree of parameters."""
        leaves = jax.tree.leaves(tree)
        return [leaves[position] for position in self.leaves]

    def embed_leaves(self, selected: Tree, tree: Tree) -> Tree:
        """Return a tree like `tree` with the selected leaves in place and zeros elsewhere."""
        leaves, structure = jax.tree.flatten(jax.tree.map(jnp.zeros_like, tree))
        for position, leaf in zip(self.leaves, jax.tree.leaves(selected), strict=True):
            leaves[position] = leaf
        return jax.tree.unflatten(structure, leaves)


def nested_tails(leaf_costs: Sequence[ParameterCost]) -> list[PredictorSet]:
    """All tails, shortest first: from each layer with a product to the end of the network."""
    starts = sorted(
        {leaf_cost.first_use for leaf_cost in leaf_costs if leaf_cost.flops > 0}, reverse=True
    )
    total = sum(leaf_cost.flops for leaf_cost in leaf_costs)
    nested = []
    # A layer includes its bias and normalization, which are used after its product.
    for start in starts:
        leaves = tuple(
            position
            for position, leaf_cost in enumerate(leaf_costs)
            if leaf_cost.first_use >= start
        )
        nested.append(
            PredictorSet(leaves, sum(leaf_costs[position].flops for position in leaves) / total)
        )
    return nested


def candidate_tails(leaf_costs: Sequence[ParameterCost], cost_limit: float) -> list[PredictorSet]:
    """The head, and the longest tails within a quarter, a half and the whole of the cost limit."""
    nested = nested_tails(leaf_costs)
    # Few candidates, because calibration measures the influence of each.
    candidates = nested[:1]
    for share in (0.25, 0.5, 1.0):
        within = [tail for tail in nested if tail.fraction <= share * cost_limit]
        candidates += [tail for tail in within[-1:] if tail not in candidates]
    return candidates


def predictor_set_of_mask(
    leaf_mask: Sequence[bool], leaf_costs: Sequence[ParameterCost]
) -> PredictorSet:
    """The set of the leaves for which the mask holds."""
    # A user may select parameters of a model without any product.
    total = sum(leaf_cost.flops for leaf_cost in leaf_costs) or 1.0
    leaves = tuple(position for position, selected in enumerate(leaf_mask) if selected)
    return PredictorSet(leaves, sum(leaf_costs[position].flops for position in leaves) / total)


def resolve_predictors(
    tail: str | PredictorMask, params: Tree, leaf_costs: Sequence[ParameterCost], cost_limit: float
) -> list[PredictorSet]:
    """Return the predictor sets among which the prediction may choose.

    Args:
        tail: "auto", "head", a path such as "Dense_1" or "decoder/layers/3", or a mask.
        params: the parameters.
        leaf_costs: the cost of each leaf, in the order of `jax.tree.leaves(params)`.
        cost_limit: for "auto", the largest share of multiply-adds.

    Raises:
        ValueError: no parameter is selected.
    """
    if isinstance(tail, str) and tail in PREDICTOR_NAMES:
        if not any(leaf_cost.flops > 0 for leaf_cost in leaf_costs):
            operations = sorted({cost.operation for cost in leaf_costs if cost.operation})
            raise ValueError(
                f"tail={tail!r}: no parameter of this model takes part in a matrix product, a "
                f"convolution or a kernel; they meet data in {operations}. Write sums of products "
                "as x @ w, name the parameters that predict, tail='path' or a boolean mask over "
                "the parameters, or predict with all of them, weighting='product'."
            )
        return (
            nested_tails(leaf_costs)[:1]
            if tail == "head"
            else candidate_tails(leaf_costs, cost_limit)
        )
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    leaf_mask = _leaf_mask(tail, params, paths)
    if not any(leaf_mask):
        raise ValueError(
            f"tail={tail!r} selects no parameter. Supported: {PREDICTOR_NAMES}, a path, a boolean "
            f"mask. Paths of this model: {paths[:20]}{' ...' if len(paths) > 20 else ''}."
        )
    return [predictor_set_of_mask(leaf_mask, leaf_costs)]


def _leaf_mask(tail: str | PredictorMask, params: Tree, paths: Sequence[str]) -> list[bool]:
    """Whether each leaf of the parameters is selected."""
    if isinstance(tail, str):
        return [path == tail or path.startswith(tail + "/") for path in paths]
    leaf_mask = tail(params) if callable(tail) else tail
    # A mask may be a prefix of the parameters' tree: spread each flag over its subtree.
    full = jax.tree.map(
        lambda flag, subtree: jax.tree.map(lambda _: bool(flag), subtree), leaf_mask, params
    )
    return jax.tree.leaves(full)
