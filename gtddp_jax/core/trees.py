"""Arithmetic on trees of arrays, with or without a sample axis."""

from typing import overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from gtddp_jax.core.explicit_sharding import is_spread
from gtddp_jax.core.types import PerSample, Scalar, Tree
from gtddp_jax.core.xla import pack_small_arrays


def upcast(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """`x` in at least float32, the precision of all sums over samples."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@overload
def add_trees(first: Tree | None, second: Tree) -> Tree: ...


@overload
def add_trees(first: Tree | None, second: Tree | None) -> Tree | None: ...


def add_trees(first: Tree | None, second: Tree | None) -> Tree | None:
    """The sum of two trees, of which either may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return jax.tree.map(jnp.add, first, second)


def tree_vdot(a: Tree, b: Tree) -> Scalar:
    """The inner product of two trees, in at least float32."""
    # Trees of one structure have arrays of the same sizes, so both are packed in the same way.
    left, right = ([upcast(leaf) for leaf in jax.tree.leaves(tree)] for tree in (a, b))
    pairs = zip(pack_small_arrays(left), pack_small_arrays(right), strict=True)

    def array_vdot(a_array: jax.Array, b_array: jax.Array) -> Scalar:
        # A product of matrices would not tell JAX how to spread its result.
        spread = is_spread(a_array)
        return (a_array.conj() * b_array).sum() if spread else jnp.vdot(a_array, b_array)

    return jnp.stack([array_vdot(*pair) for pair in pairs]).sum()


def expand_per_sample(w: Shaped[Array, " B"], x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """`w` [B], reshaped for multiplication with `x` [B, ...]."""
    return w.reshape(w.shape + (1,) * (x.ndim - 1))


def per_sample_dot(a: Tree, b: Tree) -> PerSample:
    """`a_i . b_i` of each sample over all leaves [B, ...]: [B], in at least float32.

    Of complex numbers the real part of the product, without a conjugate: JAX's gradient g of a real
    function of complex x is such that a change of x by dx changes the function by `Re(g dx)`.
    """

    def leaf_dot(a_leaf: jax.Array, b_leaf: jax.Array) -> jax.Array:
        # The real part of a real array is the array itself.
        return (upcast(a_leaf) * upcast(b_leaf)).sum(range(1, a_leaf.ndim)).real

    return jnp.stack(jax.tree.leaves(jax.tree.map(leaf_dot, a, b))).sum(0)
