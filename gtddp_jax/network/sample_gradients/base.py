"""Per-sample gradients of one player, and the sums over samples that the game needs.

| symbol  | meaning                                             | shape                        |
|---------|-----------------------------------------------------|------------------------------|
| x       | the player's inputs                                 | [B, ...]                     |
| g       | gradient of each sample's loss by the output        | [B, ...]                     |
| G_i     | gradient of sample i's loss by the parameters       | tree of parameter shapes     |
| w       | one weight per sample                               | [B]                          |
| k       | a change of the parameters                          | tree of parameter shapes     |
| d       | the diagonal of a preconditioner                    | same tree; leaves may be ()  |

B x (number of parameters) values may not fit into memory, so each implementation chooses what it
stores and what it computes again (`layer_rules`).
"""

import abc
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.chunks import map_over_samples
from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import PerSample, Tree

SampleData: TypeAlias = tuple[Tree, Callable[[Tree], Tree]]
"""Arrays with a leading sample axis, and a function from one sample's slice of them to its G_i."""


class SampleGradients(abc.ABC):
    """The gradients G_i of one player, one for each sample of the batch."""

    @abc.abstractmethod
    def weighted_sum(self, w: PerSample | None) -> Tree:
        """`sum_i w_i G_i` in at least float32; `w=None` means ones."""

    @abc.abstractmethod
    def directional_derivative(self, k: Tree) -> PerSample:
        """`G_i . k` of each sample, [B]."""

    @abc.abstractmethod
    def quadratic_form(self, d: Tree) -> PerSample:
        """`G_i^T diag(d) G_i` of each sample, [B]; a leaf of shape () scales its whole array."""

    @abc.abstractmethod
    def split_by_sample(self) -> SampleData:
        """What G_i is computed from, and how; see `SampleData`."""


def map_samples(
    fn: Callable[[dict[str, Tree]], Tree], players: Mapping[str, SampleGradients], chunk: int
) -> Tree:
    """`fn({player: G_i})` of each sample, `chunk` samples at a time; leaves [B, ...]."""
    # The data of all players is mapped over at once; each player turns its own into G_i.
    split = {name: gradients.split_by_sample() for name, gradients in players.items()}

    def of_sample(data: dict[str, Tree]) -> Tree:
        return fn({name: split[name][1](data[name]) for name in players})

    return map_over_samples(of_sample, {name: data for name, (data, _) in split.items()}, chunk)


class StoredGradients(SampleGradients):
    """Per-sample gradients held in memory: B numbers per parameter.

    Args:
        gradients: G_i, leaves [B, ...].
    """

    def __init__(self, gradients: Tree) -> None:
        self.gradients: Tree = jax.tree.map(upcast, gradients)

    @override
    def weighted_sum(self, w: PerSample | None) -> Tree:
        if w is None:
            return jax.tree.map(lambda gradient: gradient.sum(0), self.gradients)
        return jax.tree.map(
            lambda gradient: jnp.tensordot(w.astype(gradient.dtype), gradient, 1), self.gradients
        )

    @override
    def directional_derivative(self, k: Tree) -> PerSample:
        def leaf_product(gradient: jax.Array, change: jax.Array) -> jax.Array:
            return _flatten_samples(gradient) @ change.astype(gradient.dtype).ravel()

        return _sum_over_leaves(leaf_product, self.gradients, k)

    @override
    def quadratic_form(self, d: Tree) -> PerSample:
        return _sum_over_leaves(_leaf_quadratic_form, self.gradients, d)

    @override
    def split_by_sample(self) -> SampleData:
        # The data of a sample is its gradient.
        return self.gradients, lambda gradient: gradient


def _flatten_samples(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _leaf_quadratic_form(gradient: jax.Array, d: jax.Array) -> jax.Array:
    d = d.astype(gradient.dtype)
    # A scalar d needs no array of the parameters' shape.
    squares = jnp.square(_flatten_samples(gradient))
    return d * squares.sum(1) if d.ndim == 0 else squares @ d.ravel()


def _sum_over_leaves(
    fn: Callable[[jax.Array, jax.Array], jax.Array], gradients: Tree, other: Tree
) -> PerSample:
    per_leaf = jax.tree.leaves(jax.tree.map(fn, gradients, other))
    return jnp.stack(per_leaf).sum(0)
