"""Small helpers on arrays with a sample axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from gtddp_jax.core.types import PerSample, Scalar, Tree


def wide(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """`x` in at least float32, the precision of all sums over samples (DESIGN §7)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


PACKED = 2**14
"""Arrays of at most so many numbers are laid end to end before they are reduced."""


def vdot(a: Tree, b: Tree) -> Scalar:
    """The inner product of two trees, in at least float32.

    Small arrays are reduced together: a model has many, and each reduction has a fixed price.
    """
    pairs = [
        (wide(x).ravel(), wide(y).ravel())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    small = [pair for pair in pairs if pair[0].size <= PACKED]
    large = [pair for pair in pairs if pair[0].size > PACKED]
    if small:
        large.append((_end_to_end([x for x, _ in small]), _end_to_end([y for _, y in small])))
    return jnp.stack([jnp.vdot(x, y) for x, y in large]).sum()


def _end_to_end(parts: list[jax.Array]) -> jax.Array:
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def per_sample(w: Shaped[Array, " B"], x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """`w` [B] shaped for multiplication with `x` [B, ...]."""
    return w.reshape(w.shape + (1,) * (x.ndim - 1))


def inner(a: Tree, b: Tree) -> PerSample:
    """`a_i . b_i` for every sample over all arrays [B, ...] of a tree: [B], at least float32."""

    def leaf(a: jax.Array, b: jax.Array) -> jax.Array:
        return (wide(a) * wide(b)).sum(range(1, a.ndim))

    return jnp.stack(jax.tree.leaves(jax.tree.map(leaf, a, b))).sum(0)
