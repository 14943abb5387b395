"""Poisson and heat equations of the public kfac-pinns and rla-pinns experiments.

Unit cube, tanh networks, half the mean square of the equation's residual plus half that of the
boundary values. The right-hand side follows from the solution.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.joint.problem import ResidualProblem, cube_faces, cube_points, grid_points
from gtddp_lab.studies.joint.tanh_network import network_value, point_derivatives

Solution = Callable[[jax.Array], jax.Array]


def sine_product(x: jax.Array) -> jax.Array:
    """`prod sin(pi x)`, with Laplacian `-D pi^2 u`."""
    return jnp.prod(jnp.sin(jnp.pi * x))


def cosine_sum(x: jax.Array) -> jax.Array:
    """`sum cos(pi x)`, with Laplacian `-pi^2 u`."""
    return jnp.sum(jnp.cos(jnp.pi * x))


def pair_products(x: jax.Array) -> jax.Array:
    """`x1 x2 + x3 x4 + ...`, which is harmonic."""
    return jnp.sum(x[::2] * x[1::2])


def poisson_problem(
    title: str,
    sizes: tuple[int, ...],
    solution: Solution,
    eigenvalue: float,
    counts: tuple[int, int],
    fresh: bool,
) -> ResidualProblem:
    """`-Laplace(u) = eigenvalue u_exact` in the cube, `u = u_exact` on its faces.

    Args:
        title: of the problem.
        sizes: of the network.
        solution: u_exact.
        eigenvalue: of minus the Laplacian, for u_exact.
        counts: points inside and on the boundary.
        fresh: whether each step draws new points.
    """
    dimension = sizes[0]

    def equation(params: Any, x: Any) -> jax.Array:
        laplacian = point_derivatives(params, x, jnp.ones(dimension)).second
        return laplacian + eigenvalue * solution(x)

    def boundary(params: Any, x: Any) -> jax.Array:
        return network_value(params, x) - solution(x)

    def draw(key: jax.Array, factor: float) -> dict[str, jax.Array]:
        inside, faces = jax.random.split(key)
        return {
            "equation": cube_points(inside, round(factor * counts[0]), dimension),
            "boundary": cube_faces(faces, round(factor * counts[1]), dimension),
        }

    def answer() -> tuple[np.ndarray, np.ndarray]:
        if dimension == 2:
            points = grid_points(*[np.linspace(0.0, 1.0, 101)] * 2)
        else:
            points = np.random.default_rng(0).random((4000, dimension))
        return points, np.asarray(jax.vmap(solution)(jnp.asarray(points)))

    terms = {"equation": gt.Term(equation), "boundary": gt.Term(boundary)}
    grid = (101, 101) if dimension == 2 else None
    return ResidualProblem(title, sizes, terms, draw, fresh, answer, grid)


def heat_solution(point: jax.Array) -> jax.Array:
    """`exp(-pi^2 t / 4) sin(pi x)` at (t, x), which solves `u_t = u_xx / 4`."""
    return jnp.exp(-(jnp.pi**2) * point[0] / 4) * jnp.sin(jnp.pi * point[1])


def heat_problem(sizes: tuple[int, ...], counts: tuple[int, int]) -> ResidualProblem:
    """`u_t = u_xx / 4` for t and x in [0, 1], with initial and boundary values."""

    def equation(params: Any, point: Any) -> jax.Array:
        found = point_derivatives(params, point, jnp.array([0.0, 1.0]))
        return found.gradient[0] - found.second / 4

    def conditions(params: Any, point: Any) -> jax.Array:
        return network_value(params, point) - heat_solution(point)

    def draw(key: jax.Array, factor: float) -> dict[str, jax.Array]:
        inside, faces = jax.random.split(key)
        count = round(factor * counts[1])
        number = jnp.arange(count) % 3
        points = jax.random.uniform(faces, (count, 2))
        # A third each at t = 0, x = 0 and x = 1.
        values = (number == 2).astype(points.dtype)
        points = points.at[jnp.arange(count), (number > 0).astype(int)].set(values)
        return {"equation": cube_points(inside, round(factor * counts[0]), 2), "conditions": points}

    def answer() -> tuple[np.ndarray, np.ndarray]:
        points = grid_points(*[np.linspace(0.0, 1.0, 101)] * 2)
        return points, np.asarray(jax.vmap(heat_solution)(jnp.asarray(points)))

    terms = {"equation": gt.Term(equation), "conditions": gt.Term(conditions)}
    title = "heat equation, 1+1-D"
    return ResidualProblem(title, sizes, terms, draw, False, answer, (101, 101))
