"""What the worlds of both games are made of."""

from typing import Any, NamedTuple

import jax

import gtddp_jax as gt

Tree = Any


class Shim(NamedTuple):
    """A Flax model's stages where the oracle looks for a network's."""

    stages: Any
    has_batch_stats: bool = False
    coupled_stages: int = 0

    def bind(self, batch_stats: Tree, *, train: bool) -> Any:
        """The stages as they are: they keep no statistics."""
        del batch_stats, train
        return self.stages


class Case(NamedTuple):
    """Parameters and a batch."""

    params: Tree
    x: jax.Array
    y: jax.Array


class Wrapped(NamedTuple):
    """A curvature without a formula, where the oracle looks for a method."""

    curvature: gt.curvature.Curvature
