"""Building blocks that the worlds of both games share."""

from typing import Any, NamedTuple

import jax

import gtddp_jax as gt

Tree = Any


class Shim(NamedTuple):
    """Makes the stages of a Flax model look like a network to the oracle."""

    stages: Any
    has_batch_stats: bool = False
    coupled_stages: int = 0

    def bind(self, batch_stats: Tree, *, train: bool) -> Any:
        """The stages unchanged, since they have no running statistics."""
        del batch_stats, train
        return self.stages


class Case(NamedTuple):
    """The parameters and the batch of a case."""

    params: Tree
    x: jax.Array
    y: jax.Array


class Wrapped(NamedTuple):
    """Makes a curvature without a formula look like a method to the oracle."""

    curvature: gt.curvature.Curvature
