"""A problem of the study: residuals of one sample, samples, and the known answer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gtddp_jax as gt
from gtddp_lab.studies.joint.tanh_network import TanhNetwork, init_tanh_network, network_value

Samples = Any
"""Samples of one term: arrays [N, ...]."""


@dataclasses.dataclass(frozen=True)
class ResidualProblem:
    """Residuals whose mean squares a network minimizes, and where its error is measured.

    Attributes:
        title: for tables and pictures.
        sizes: widths of the network's layers, inputs and outputs included.
        terms: residuals by name. Terms are squared: the objective is the sum over terms of
            `weight / 2` times the mean of the squared residual.
        draw: `draw(key, factor)` -> samples of every term, about `factor` times the usual number.
        fresh: whether each step draws new samples.
        answer: () -> test points [n, D] and the true values there [n].
        grid: shape of the test points if they are a grid in two dimensions, to draw them.
        value: `value(params, point)` -> the approximate answer at one point [D].
    """

    title: str
    sizes: tuple[int, ...]
    terms: Mapping[str, gt.Term]
    draw: Callable[[jax.Array, float], dict[str, Samples]]
    fresh: bool
    answer: Callable[[], tuple[np.ndarray, np.ndarray]]
    grid: tuple[int, int] | None = None
    value: Callable[[TanhNetwork, jax.Array], jax.Array] = network_value

    def init(self, key: jax.Array) -> TanhNetwork:
        """Initial parameters."""
        return init_tanh_network(key, self.sizes)

    def predict(self, params: TanhNetwork, points: Float[Array, "n D"]) -> Float[Array, " n"]:
        """The approximate answer at some points."""
        return jax.vmap(self.value, in_axes=(None, 0))(params, points)

    def relative_error(
        self, params: TanhNetwork, points: Float[Array, "n D"], values: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Relative L2 error at some points."""
        return jnp.linalg.norm(self.predict(params, points) - values) / jnp.linalg.norm(values)

    def objective(self, params: TanhNetwork, samples: Mapping[str, Samples]) -> Float[Array, ""]:
        """The objective that all methods minimize."""
        total = jnp.zeros(())
        for name, term in self.terms.items():
            residual = jax.vmap(term.residual, in_axes=(None, 0))(params, samples[name])
            squares = jnp.square(residual).reshape(len(residual), -1).sum(1)
            total += 0.5 * term.weight * squares.mean()
        return total


def grid_points(*axes: np.ndarray) -> np.ndarray:
    """All combinations of the coordinates, [n, D]; the last coordinate changes fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def cube_points(key: jax.Array, count: int, dimension: int) -> Float[Array, "n D"]:
    """Uniform points of the unit cube."""
    return jax.random.uniform(key, (count, dimension))


def cube_faces(key: jax.Array, count: int, dimension: int) -> Float[Array, "n D"]:
    """Uniform points of the boundary of the unit cube, as many on each face."""
    face = jnp.arange(count) % (2 * dimension)
    points = jax.random.uniform(key, (count, dimension))
    return points.at[jnp.arange(count), face // 2].set((face % 2).astype(points.dtype))
