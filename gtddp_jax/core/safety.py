"""Steps with infinities or NaNs are skipped: how they are detected, and how the old state is kept.

The sequential game computes a step first and then selects between the new and the old state; the
implicit game selects while its base computes the state (`implicit/guarded_step.py`).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from gtddp_jax.core.explicit_sharding import is_spread
from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import Flag, Scalar, Tree
from gtddp_jax.core.xla import PACKED_SIZE, pack_small_arrays


def all_finite(*trees: Tree) -> Flag:
    """Whether all floating-point numbers in the trees are finite; a scalar boolean.

    Finite numbers whose float32 sum overflows (beyond 1e30) count as not finite.
    """
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    # One sum per array: an infinity or NaN always makes it infinite or NaN.
    sums = [jnp.sum(x, dtype=jnp.promote_types(x.dtype, jnp.float32)) for x in leaves]
    return jnp.isfinite(jnp.stack([total.astype(jnp.float32) for total in sums])).all()


BOUND_MARGIN = 1e-3
"""Share of the largest number with a finite square that a bound may reach, for rounding and sums
over devices."""


def squares_finite(tree: Tree, bounds: Mapping[int, Scalar] | None = None) -> Flag:
    """Whether the squares of all numbers in a tree of gradients are finite; a scalar boolean.

    An optimizer with second moments stores them. Each row of a matrix is summed up after scaling by
    the root of the largest number: an infinity, a NaN or a number too large for a square makes the
    sum infinite or NaN.

    Args:
        tree: the gradients.
        bounds: bounds on the magnitudes of some leaves, by position. These leaves are read only if
            a bound is not small enough to answer the question.
    """
    leaves = jax.tree.leaves(tree)
    if not bounds:
        return _squares_finite(leaves)
    bounded = [leaf for i, leaf in enumerate(leaves) if i in bounds]
    limits = [BOUND_MARGIN * _root_of_largest(leaves[i]) for i in bounds]
    is_small = (jnp.stack(list(bounds.values())) < jnp.array(limits)).all()
    # Both branches vary over mapped axes as `is_small` does.
    found = jax.lax.cond(
        is_small, lambda _: is_small, lambda leaves: is_small | _squares_finite(leaves), bounded
    )
    return found & _squares_finite([leaf for i, leaf in enumerate(leaves) if i not in bounds])


def _squares_finite(leaves: Sequence[jax.Array]) -> Flag:
    leaves = [upcast(leaf) for leaf in leaves]
    # On CPUs a product with a vector takes half the time of a reduction. It does not tell JAX how
    # to spread its result.
    are_multiplied = [
        leaf.size > PACKED_SIZE and leaf.ndim > 1 and not is_spread(leaf) for leaf in leaves
    ]
    pairs = list(zip(leaves, are_multiplied, strict=True))
    summed = pack_small_arrays([leaf for leaf, is_multiplied in pairs if not is_multiplied])
    sums = [(vector * _root_of_largest(vector)).sum() for vector in summed]
    for matrix in (leaf for leaf, is_multiplied in pairs if is_multiplied):
        row = jnp.full(matrix.shape[-1], _root_of_largest(matrix), matrix.dtype)
        sums.append((matrix @ row).sum())
    return jnp.isfinite(jnp.stack(sums)).all()


def _root_of_largest(x: jax.Array) -> float:
    return float(jnp.finfo(x.dtype).max) ** 0.5


def tree_where(ok: Flag, new: Tree, old: Tree) -> Tree:
    """`new` where `ok`, else `old`; trees of one structure, in the dtypes of `old`."""
    return jax.tree.map(
        lambda new_leaf, old_leaf: jnp.where(ok, new_leaf, old_leaf).astype(
            jnp.result_type(old_leaf)
        ),
        new,
        old,
    )


def zeros_unless(ok: Flag, tree: Tree) -> Tree:
    """`tree` where `ok`, else zeros."""
    # A product with 0 would keep NaN and infinity.
    return jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.zeros_like(leaf)), tree)
