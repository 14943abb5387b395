"""Maps and sums over samples, a few samples at a time, to bound memory and to stay in the cache."""

from collections.abc import Callable
from typing import TypeVar

import jax

from gtddp_jax.core.types import Tree

Data = TypeVar("Data")
Sum = TypeVar("Sum")


def map_over_samples(fn: Callable[[Data], Tree], data: Data, chunk: int) -> Tree:
    """`fn` of each sample of `data` (leaves [B, ...]), `chunk` samples at once; leaves [B, ...]."""
    return jax.lax.map(fn, data, batch_size=chunk)


def sum_over_samples(fn: Callable[[Data], Sum], data: Data, chunk: int) -> Sum:
    """The sum of `fn` over chunks of samples.

    Args:
        fn: from leaves [n, ...] of n samples to a sum over these samples, a tree of arrays.
        data: leaves [B, ...].
        chunk: the number of samples that `fn` gets at once.

    Returns:
        `fn(data)`, up to the order of additions.
    """
    batch = jax.tree.leaves(data)[0].shape[0]
    if chunk >= batch:
        return fn(data)
    chunk_count = batch // chunk
    # A scan needs chunks of one size; the remaining samples are added at the end.
    even_count = chunk_count * chunk
    chunks = jax.tree.map(
        lambda leaf: leaf[:even_count].reshape(chunk_count, chunk, *leaf.shape[1:]), data
    )

    def add_chunk(total: Sum, samples: Data) -> tuple[Sum, None]:
        return jax.tree.map(lambda old, new: old + new, total, fn(samples)), None

    # The first chunk gives the scan's initial total, so its dtypes need not be known beforehand.
    first = jax.tree.map(lambda leaf: leaf[0], chunks)
    total, _ = jax.lax.scan(add_chunk, fn(first), jax.tree.map(lambda leaf: leaf[1:], chunks))
    if batch == even_count:
        return total
    remainder = jax.tree.map(lambda leaf: leaf[even_count:], data)
    return jax.tree.map(lambda old, new: old + new, total, fn(remainder))
