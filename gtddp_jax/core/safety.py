"""A step that is not finite is not taken (DESIGN §9)."""

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


def guarded_vdot(a: Tree, b: Tree, guard: Tree) -> Scalar:
    """The inner product of `a` and `b`, not finite if the square of a number in `guard` is not.

    In at least float32. One pass over the arrays for both; small arrays are laid end to end.
    """

    def products(a: jax.Array, b: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.where(jnp.isfinite(jnp.square(wide(g))), wide(a) * wide(b), jnp.nan).ravel()

    parts = jax.tree.leaves(jax.tree.map(products, a, b, guard))
    small = [x for x in parts if x.size <= PACKED]
    large = [x for x in parts if x.size > PACKED]
    return jnp.stack([x.sum() for x in large + ([jnp.concatenate(small)] if small else [])]).sum()


def choose(ok: Flag, new: Tree, old: Tree) -> Tree:
    """`new` where `ok`, else `old`; trees of one structure, dtypes of `old`."""
    return jax.tree.map(lambda n, o: jnp.where(ok, n, o).astype(jnp.result_type(o)), new, old)


def zero_unless(ok: Flag, tree: Tree) -> Tree:
    """`tree` where `ok`, else zeros."""
    return jax.tree.map(lambda x: jnp.where(ok, x, jnp.zeros_like(x)), tree)
