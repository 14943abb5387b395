"""A step that is not finite is not taken (DESIGN §9)."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def all_finite(*trees: Tree) -> jax.Array:
    """Whether every floating-point number in the trees is finite; a scalar boolean."""
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    finite = [jnp.isfinite(x).all() for x in leaves]
    return jnp.stack(finite).all() if finite else jnp.array(True)


def choose(ok: jax.Array, new: Tree, old: Tree) -> Tree:
    """`new` where `ok`, else `old`; trees of one structure, dtypes of `old`."""
    return jax.tree.map(lambda n, o: jnp.where(ok, n, o).astype(jnp.result_type(o)), new, old)


def zero_unless(ok: jax.Array, tree: Tree) -> Tree:
    """`tree` where `ok`, else zeros."""
    return jax.tree.map(lambda x: jnp.where(ok, x, jnp.zeros_like(x)), tree)
