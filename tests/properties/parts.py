"""Building blocks that the worlds of all games share."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

import gtddp_jax as gt
from tests.sequential import zoo

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

    def rolled(self) -> "Case":
        """The same samples in another order: the last one comes first."""
        return self._replace(x=jnp.roll(self.x, 1, axis=0), y=jnp.roll(self.y, 1, axis=0))

    def doubled(self) -> "Case":
        """Every sample twice."""
        return self._replace(x=jnp.concatenate([self.x] * 2), y=jnp.concatenate([self.y] * 2))


class World(Protocol):
    """What a case is drawn for.

    Attributes:
        seed: the seed of all worlds.
        index: the index of this world.
        problem: its network.
        dtype: the name of its dtype.
    """

    seed: int
    index: int
    problem: zoo.Problem
    dtype: str


def draw_case(world: World, number: int) -> tuple[Case, int]:
    """The case of a world with this number, and its seed."""
    seed = (world.seed * 1_000_003 + world.index) * 1_000 + number
    p = zoo.filled(world.problem, seed=seed, dtype=getattr(jnp, world.dtype))
    return Case(p.params, p.x, p.y), seed


class Wrapped(NamedTuple):
    """Makes a curvature without a formula look like a method to the oracle."""

    curvature: gt.curvature.Curvature
