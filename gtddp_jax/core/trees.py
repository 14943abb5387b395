"""Small helpers on arrays with a sample axis."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def wide(x: jax.Array) -> jax.Array:
    """`x` in at least float32, the precision of all sums over samples (DESIGN §7)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def vdot(a: Tree, b: Tree) -> jax.Array:
    """The inner product of two trees, in at least float32."""
    parts = jax.tree.leaves(jax.tree.map(lambda x, y: jnp.vdot(wide(x), wide(y)), a, b))
    return jnp.stack(parts).sum()


def per_sample(w: jax.Array, x: jax.Array) -> jax.Array:
    """`w` [B] shaped for multiplication with `x` [B, ...]."""
    return w.reshape(w.shape + (1,) * (x.ndim - 1))
