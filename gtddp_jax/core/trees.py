"""Small helpers on arrays with a sample axis."""

import jax
import jax.numpy as jnp


def wide(x: jax.Array) -> jax.Array:
    """`x` in at least float32, the precision of all sums over samples (DESIGN §7)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def per_sample(w: jax.Array, x: jax.Array) -> jax.Array:
    """`w` [B] shaped for multiplication with `x` [B, ...]."""
    return w.reshape(w.shape + (1,) * (x.ndim - 1))
