"""A step that is not finite is not taken (DESIGN §9)."""

from collections import Counter

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import PACKED, wide
from gtddp_jax.core.types import Flag, Scalar, Tree


def all_finite(*trees: Tree) -> Flag:
    """Whether the floating-point numbers in the trees are finite; a scalar boolean.

    One sum an array, which an infinity or NaN always spoils. Finite numbers so large that their
    float32 sum overflows (beyond 1e30) are treated alike.
    """
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    sums = [jnp.sum(x, dtype=jnp.promote_types(x.dtype, jnp.float32)) for x in leaves]
    return jnp.isfinite(jnp.stack([s.astype(jnp.float32) for s in sums])).all()


def guarded_vdot(a: Tree, b: Tree, guard: Tree, riders: Tree = ()) -> Scalar:
    """The inner product of `a` and `b`; not finite if something it looks at on the way is not.

    One pass over the arrays for all of it; small arrays are laid end to end. In at least float32.

    Args:
        a: a tree of arrays.
        b: a tree like `a`.
        guard: a tree like `a`; the squares of its numbers must be finite.
        riders: any arrays, whose numbers must be finite. Each is looked at together with an array
            of `a` of its shape (the n-th with the n-th), if there is one.
    """
    leaves = [jax.tree.leaves(tree) for tree in (a, b, guard)]
    seats, alone = _seated([x.shape for x in leaves[0]], riders)

    def products(a: jax.Array, b: jax.Array, g: jax.Array, others: list[jax.Array]) -> jax.Array:
        fine = jnp.isfinite(jnp.square(wide(g)))
        for other in others:
            fine &= jnp.isfinite(other)
        return jnp.where(fine, wide(a) * wide(b), jnp.nan).ravel()

    parts = [products(*row) for row in zip(*leaves, seats, strict=True)]
    small = [x for x in parts if x.size <= PACKED]
    large = [x for x in parts if x.size > PACKED]
    total = jnp.stack([x.sum() for x in large + ([jnp.concatenate(small)] if small else [])]).sum()
    return jnp.where(all_finite(alone), total, jnp.nan) if alone else total


def _seated(
    shapes: list[tuple[int, ...]], riders: Tree
) -> tuple[list[list[jax.Array]], list[jax.Array]]:
    """Riders for each array of these shapes, and those that found none."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(shapes):
        places.setdefault(shape, []).append(place)
    seats: list[list[jax.Array]] = [[] for _ in shapes]
    alone: list[jax.Array] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for rider in map(jnp.asarray, jax.tree.leaves(riders)):
        if not jnp.issubdtype(rider.dtype, jnp.inexact):
            continue
        own = places.get(rider.shape)
        (seats[own[seen[rider.shape] % len(own)]] if own else alone).append(rider)
        seen[rider.shape] += 1
    return seats, alone


def choose(ok: Flag, new: Tree, old: Tree) -> Tree:
    """`new` where `ok`, else `old`; trees of one structure, dtypes of `old`."""
    return jax.tree.map(lambda n, o: jnp.where(ok, n, o).astype(jnp.result_type(o)), new, old)


def zero_unless(ok: Flag, tree: Tree) -> Tree:
    """`tree` where `ok`, else zeros."""
    return jax.tree.map(lambda x: jnp.where(ok, x, jnp.zeros_like(x)), tree)
