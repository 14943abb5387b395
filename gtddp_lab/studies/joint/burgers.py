"""Burgers' equation in one dimension, with its solution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.joint.problem import ResidualProblem, grid_points
from gtddp_lab.studies.joint.tanh_network import TanhNetwork, point_derivatives

VISCOSITY = 0.01 / np.pi
TIMES, PLACES = np.linspace(0.0, 1.0, 51), np.linspace(-1.0, 1.0, 257)


def strip_points(key: jax.Array, count: int) -> jax.Array:
    """Uniform points (t, x) with t in [0, 1] and x in [-1, 1]."""
    return jax.random.uniform(
        key, (count, 2), minval=jnp.array([0.0, -1.0]), maxval=jnp.array([1.0, 1.0])
    )


def burgers_values(points: np.ndarray) -> np.ndarray:
    """The solution for `u(0, x) = -sin(pi x)` at points [n, 2], by the Cole-Hopf transformation."""
    nodes, weights = np.polynomial.hermite.hermgauss(160)
    time, place = points[:, 0, None], points[:, 1, None]
    shifted = place - np.sqrt(4 * VISCOSITY * time) * nodes
    # The constant keeps the exponential within range; it cancels in the quotient.
    heat = weights * np.exp(-(np.cos(np.pi * shifted) + 1) / (2 * np.pi * VISCOSITY))
    return -(heat * np.sin(np.pi * shifted)).sum(1) / heat.sum(1)


def burgers_problem(
    sizes: tuple[int, ...], counts: tuple[int, int], title: str = "Burgers' equation"
) -> ResidualProblem:
    """`u_t + u u_x = VISCOSITY u_xx`, `u(0, x) = -sin(pi x)`, `u(t, -1) = u(t, 1) = 0`.

    Initial and boundary values are exact by construction. Half of the points are near the shock.
    """

    def parts(params: TanhNetwork, point: jax.Array) -> tuple[jax.Array, ...]:
        """u, u_t, u_x and u_xx of `u = -sin(pi x) + t (1 - x^2) network`."""
        time, place = point
        found = point_derivatives(params, point, jnp.array([0.0, 1.0]))
        value, (by_time, by_place) = found.value, found.gradient
        sine, cosine = jnp.sin(jnp.pi * place), jnp.cos(jnp.pi * place)
        bump = 1 - place**2
        return (
            -sine + time * bump * value,
            bump * (value + time * by_time),
            -jnp.pi * cosine + time * (bump * by_place - 2 * place * value),
            jnp.pi**2 * sine + time * (bump * found.second - 4 * place * by_place - 2 * value),
        )

    def equation(params: Any, point: Any) -> jax.Array:
        value, by_time, by_place, second = parts(params, point)
        return by_time + value * by_place - VISCOSITY * second

    def draw(key: jax.Array, factor: float) -> dict[str, jax.Array]:
        everywhere, shock = jax.random.split(key)
        spread, close = (round(factor * count) for count in counts)
        points = strip_points(everywhere, spread + close)
        near = 0.05 * jax.random.normal(shock, (close,))
        points = points.at[spread:, 1].set(jnp.clip(near, -1.0, 1.0))
        return {"equation": points}

    def answer() -> tuple[np.ndarray, np.ndarray]:
        points = grid_points(TIMES, PLACES)
        return points, burgers_values(points)

    def value(params: Any, point: Any) -> jax.Array:
        return parts(params, point)[0]

    terms = {"equation": gt.Term(equation)}
    grid = (len(TIMES), len(PLACES))
    return ResidualProblem(title, sizes, terms, draw, True, answer, grid, value)
