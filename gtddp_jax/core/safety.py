"""Steps with infinities or NaNs are skipped: how they are detected, and how the old state is kept.

Whether a step is finite is known once all of it has been computed, so both games compute a step
first and then select between the new and the old state.
"""

from collections import Counter

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import Flag, Scalar, Tree
from gtddp_jax.core.xla import pack_small_arrays


def all_finite(*trees: Tree) -> Flag:
    """Whether all floating-point numbers in the trees are finite; a scalar boolean.

    Finite numbers whose float32 sum overflows (beyond 1e30) count as not finite.
    """
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    # One sum per array: an infinity or NaN always makes it infinite or NaN.
    sums = [jnp.sum(x, dtype=jnp.promote_types(x.dtype, jnp.float32)) for x in leaves]
    return jnp.isfinite(jnp.stack([total.astype(jnp.float32) for total in sums])).all()


def guarded_vdot(a: Tree, b: Tree, guard: Tree, checked: Tree = ()) -> Scalar:
    """The inner product of `a` and `b`, in at least float32; NaN if a guarded number is not finite.

    The product and all checks take one pass over the arrays together.

    Args:
        a: a tree of arrays.
        b: a tree like `a`.
        guard: a tree like `a`; the squares of its numbers must be finite.
        checked: further arrays, whose numbers must be finite. Each is read along with an array of
            `a` of the same shape (the n-th with the n-th), if there is one.
    """
    a_leaves, b_leaves, guard_leaves = (jax.tree.leaves(tree) for tree in (a, b, guard))
    alongside, unmatched = _match_shapes([a_array.shape for a_array in a_leaves], checked)

    def guarded_products(
        a_array: jax.Array, b_array: jax.Array, guarded: jax.Array, others: list[jax.Array]
    ) -> jax.Array:
        # The square, because an optimizer with second moments would store it.
        fine = jnp.isfinite(jnp.square(upcast(guarded)))
        for other in others:
            fine &= jnp.isfinite(other)
        # A NaN among the products makes the sum NaN, so the checks need no reduction of their own.
        return jnp.where(fine, upcast(a_array) * upcast(b_array), jnp.nan)

    products = [
        guarded_products(*arrays)
        for arrays in zip(a_leaves, b_leaves, guard_leaves, alongside, strict=True)
    ]
    total = jnp.stack([a_array.sum() for a_array in pack_small_arrays(products)]).sum()
    return jnp.where(all_finite(unmatched), total, jnp.nan) if unmatched else total


def _match_shapes(
    shapes: list[tuple[int, ...]], checked: Tree
) -> tuple[list[list[jax.Array]], list[jax.Array]]:
    """For each of the shapes, the arrays of `checked` that have it; and those without a match."""
    positions: dict[tuple[int, ...], list[int]] = {}
    for position, shape in enumerate(shapes):
        positions.setdefault(shape, []).append(position)
    matched: list[list[jax.Array]] = [[] for _ in shapes]
    unmatched: list[jax.Array] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for array in map(jnp.asarray, jax.tree.leaves(checked)):
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        same_shape = positions.get(array.shape)
        if same_shape is None:
            unmatched.append(array)
            continue
        # Arrays of one shape take turns, because there may be more of them (Adam has two moments).
        matched[same_shape[seen[array.shape] % len(same_shape)]].append(array)
        seen[array.shape] += 1
    return matched, unmatched


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
