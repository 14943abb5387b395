"""Sums over samples, a few samples at a time: memory is bounded, and caches are used."""

from collections.abc import Callable

import jax

from gtddp_jax.core.types import Tree


def map_over_samples(f: Callable[[Tree], Tree], data: Tree, chunk: int) -> Tree:
    """`f` of each sample of `data` (leaves [B, ...]), `chunk` samples at once; leaves [B, ...]."""
    return jax.lax.map(f, data, batch_size=chunk)


def sum_over_samples(f: Callable[[Tree], Tree], data: Tree, chunk: int) -> Tree:
    """`f` of all samples of `data`, where `f` of a part is a sum over the samples of that part.

    Args:
        f: from leaves [n, ...] to a tree without a sample axis.
        data: leaves [B, ...].
        chunk: how many samples `f` gets at once.
    """
    batch = jax.tree.leaves(data)[0].shape[0]
    if chunk >= batch:
        return f(data)
    whole = batch // chunk
    first = jax.tree.map(lambda v: v[: whole * chunk].reshape(whole, chunk, *v.shape[1:]), data)
    rest = jax.tree.map(lambda v: v[whole * chunk :], data)

    def add(total: Tree, part: Tree) -> tuple[Tree, None]:
        return jax.tree.map(lambda t, v: t + v, total, f(part)), None

    head = jax.tree.map(lambda v: v[0], first)
    total, _ = jax.lax.scan(add, f(head), jax.tree.map(lambda v: v[1:], first))
    if batch == whole * chunk:
        return total
    return jax.tree.map(lambda t, v: t + v, total, f(rest))
