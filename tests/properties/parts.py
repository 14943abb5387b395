"""Building blocks that the worlds of all games share."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from tests.properties import plans
from tests.properties.findings import BOUNDS, Finding
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


class World:
    """What the worlds of all games share; see `__init__.py`.

    Args:
        seed: the seed of all worlds.
        index: the index of this world.

    Attributes:
        rng: the random numbers of this world.
        dtype: the name of its dtype.
        batch: the number of samples.
        plan: its network.
        decay: the running cost is `decay / 2 |u|^2`.
        problem: the network, made by `make_problem`.
    """

    dtype: str
    batch: int
    plan: plans.Network
    decay: float
    problem: zoo.Problem

    def __init__(self, seed: int, index: int) -> None:
        self.seed, self.index = seed, index
        self.rng = np.random.default_rng([seed, index])

    def describe(self, *fields: str) -> str:
        """The attributes of these names, and the network."""
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return f"{options}, {self.plan}"

    def make_problem(self) -> zoo.Problem:
        """The network of the plan."""
        spec = zoo.Spec(lambda: plans.layers(self.plan), plans.INPUTS[self.plan.inputs])
        return zoo.make(spec, batch=self.batch, seed=self.index, dtype=getattr(jnp, self.dtype))

    def draw_case(self, number: int) -> tuple[Case, int]:
        """The case with this number, and its seed."""
        seed = (self.seed * 1_000_003 + self.index) * 1_000 + number
        p = zoo.filled(self.problem, seed=seed, dtype=getattr(jnp, self.dtype))
        return Case(p.params, p.x, p.y), seed

    def running(self, params: Tree, scale: Any) -> Tree:
        """The gradient of the running cost, for a loss multiplied by `scale`."""
        return jax.tree.map(lambda u: (scale * self.decay * u).astype(u.dtype), params)

    def found(self, name: str, error: float) -> Finding:
        """A property and its error, with the bound of the dtype."""
        return Finding(name, error, BOUNDS[self.dtype])

    def taken(self, step: Tree, report: Any) -> Iterator[Finding]:
        """Whether a step was taken, in the dtype of the parameters."""
        yield Finding("the step is taken", float(report.skipped), 0.0)
        kinds = {leaf.dtype.name for leaf in jax.tree.leaves(step)}
        yield Finding("dtypes stay", float(kinds != {self.dtype}), 0.0)


class Wrapped(NamedTuple):
    """Makes a curvature without a formula look like a method to the oracle."""

    curvature: gt.curvature.Curvature
