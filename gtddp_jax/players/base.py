"""What the game needs from one player: three operations on its per-sample gradients (DESIGN §6).

| symbol  | meaning                                            | shape                       |
|---------|----------------------------------------------------|-----------------------------|
| G_i     | gradient of sample i's loss by the player's params | tree of parameter shapes    |
| w       | one number a sample                                | [B]                         |
| k       | a change of the parameters                         | tree of parameter shapes    |
| d       | the diagonal of a preconditioner                   | same tree; leaves may be () |

No implementation holds more than a budgeted number of per-sample-and-per-weight values.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.chunks import map_over_samples
from gtddp_jax.core.trees import wide
from gtddp_jax.core.types import PerSample, Tree


class SampleGradients(abc.ABC):
    """The gradients G_i of one player, one for each sample of the batch."""

    @abc.abstractmethod
    def weighted(self, w: PerSample | None) -> Tree:
        """`sum_i w_i G_i` in at least float32; `w=None` means ones."""

    @abc.abstractmethod
    def dot(self, k: Tree) -> PerSample:
        """`G_i . k` for every sample, [B]."""

    @abc.abstractmethod
    def square(self, d: Tree) -> PerSample:
        """`G_i^T diag(d) G_i` for every sample, [B]; a leaf of shape () scales its whole array."""

    @abc.abstractmethod
    def parts(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        """Arrays with a leading sample axis, and the function from one sample's part to its G_i."""


def map_samples(
    f: Callable[[dict[str, Tree]], Tree], players: Mapping[str, SampleGradients], chunk: int
) -> Tree:
    """`f` of `{player: G_i}` for every sample, on `chunk` samples at a time; leaves [B, ...]."""
    parts = {name: samples.parts() for name, samples in players.items()}

    def one(part: dict[str, Tree]) -> Tree:
        return f({name: parts[name][1](part[name]) for name in players})

    return map_over_samples(one, {name: part for name, (part, _) in parts.items()}, chunk)


class Kept(SampleGradients):
    """Per-sample gradients held in memory, B numbers a parameter."""

    def __init__(self, gradients: Tree) -> None:
        self.gradients: Tree = jax.tree.map(wide, gradients)

    def weighted(self, w: PerSample | None) -> Tree:
        """See `SampleGradients`."""
        if w is None:
            return jax.tree.map(lambda g: g.sum(0), self.gradients)
        return jax.tree.map(lambda g: jnp.tensordot(w.astype(g.dtype), g, 1), self.gradients)

    def dot(self, k: Tree) -> PerSample:
        """See `SampleGradients`."""
        return _leaf_sum(lambda g, v: _flat(g) @ v.astype(g.dtype).ravel(), self.gradients, k)

    def square(self, d: Tree) -> PerSample:
        """See `SampleGradients`."""
        return _leaf_sum(_square, self.gradients, d)

    def parts(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        """See `SampleGradients`."""
        return self.gradients, lambda gradient: gradient


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _square(g: jax.Array, d: jax.Array) -> jax.Array:
    d = d.astype(g.dtype)
    squares = jnp.square(_flat(g))
    return d * squares.sum(1) if d.ndim == 0 else squares @ d.ravel()


def _leaf_sum(f: Any, gradients: Tree, other: Tree) -> jax.Array:
    parts = jax.tree.leaves(jax.tree.map(f, gradients, other))
    return jnp.stack(parts).sum(0)
