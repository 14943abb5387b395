"""Burgers' and the Allen-Cahn equation in one dimension, with their reference solutions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.joint.problem import ResidualProblem, grid_points
from gtddp_lab.studies.joint.tanh_network import TanhNetwork, network_value, point_derivatives

VISCOSITY = 0.01 / np.pi
DIFFUSION, REACTION = 1e-4, 5.0
"""Of the Allen-Cahn equation `u_t = DIFFUSION u_xx + REACTION (u - u^3)`."""

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


def burgers_problem(sizes: tuple[int, ...], counts: tuple[int, int]) -> ResidualProblem:
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

    def equation(params: TanhNetwork, point: jax.Array) -> jax.Array:
        value, by_time, by_place, second = parts(params, point)
        return by_time + value * by_place - VISCOSITY * second

    def draw(key: jax.Array, factor: int) -> dict[str, jax.Array]:
        everywhere, shock = jax.random.split(key)
        points = strip_points(everywhere, factor * sum(counts))
        near = 0.05 * jax.random.normal(shock, (factor * counts[1],))
        points = points.at[factor * counts[0] :, 1].set(jnp.clip(near, -1.0, 1.0))
        return {"equation": points}

    def answer() -> tuple[np.ndarray, np.ndarray]:
        points = grid_points(TIMES, PLACES)
        return points, burgers_values(points)

    def value(params: TanhNetwork, point: jax.Array) -> jax.Array:
        return parts(params, point)[0]

    terms = {"equation": gt.Term(equation)}
    title, grid = "Burgers' equation", (len(TIMES), len(PLACES))
    return ResidualProblem(title, sizes, terms, draw, True, answer, grid, value)


def allen_cahn_values(points: np.ndarray) -> np.ndarray:
    """The solution for `u(0, x) = x^2 cos(pi x)` at points of `TIMES` x `PLACES`."""
    size, steps = 512, 4000
    frequency = np.pi * np.fft.fftfreq(size, 1 / size)
    length = 1 / steps
    # Strang splitting: diffusion in Fourier space, the reaction in closed form.
    half_diffusion = np.exp(-DIFFUSION * frequency**2 * length / 2)
    decay = np.exp(-2 * REACTION * length)
    value = np.linspace(-1.0, 1.0, size, endpoint=False)
    value = value**2 * np.cos(np.pi * value)
    found = [value]
    for step in range(1, steps + 1):
        value = np.fft.ifft(half_diffusion * np.fft.fft(value)).real
        value = value / np.sqrt(decay + (1 - decay) * value**2)
        value = np.fft.ifft(half_diffusion * np.fft.fft(value)).real
        if step % (steps // (len(TIMES) - 1)) == 0:
            found.append(value)
    stored = np.concatenate([np.array(found), np.array(found)[:, :1]], axis=1)
    return stored[:, :: size // (len(PLACES) - 1)].reshape(len(points))


def allen_cahn_problem(sizes: tuple[int, ...], count: int) -> ResidualProblem:
    """`u_t = DIFFUSION u_xx + REACTION (u - u^3)`, periodic in x, `u(0, x) = x^2 cos(pi x)`.

    The network sees t, cos(pi x) and sin(pi x); initial values are exact by construction.
    """

    def features(point: jax.Array) -> jax.Array:
        angle = jnp.pi * point[1]
        return jnp.stack([2 * point[0] - 1, jnp.cos(angle), jnp.sin(angle)])

    def value(params: TanhNetwork, point: jax.Array) -> jax.Array:
        start = point[1] ** 2 * jnp.cos(jnp.pi * point[1])
        return start + point[0] * network_value(params, features(point))

    def equation(params: TanhNetwork, point: jax.Array) -> jax.Array:
        def along(axis: int) -> Callable[[jax.Array], jax.Array]:
            direction = jnp.zeros(2).at[axis].set(1.0)
            return lambda x: jax.jvp(lambda x: value(params, x), (x,), (direction,))[1]

        by_time = along(0)(point)
        _, second = jax.jvp(along(1), (point,), (jnp.array([0.0, 1.0]),))
        now = value(params, point)
        return by_time - DIFFUSION * second - REACTION * (now - now**3)

    def draw(key: jax.Array, factor: int) -> dict[str, jax.Array]:
        return {"equation": strip_points(key, factor * count)}

    def answer() -> tuple[np.ndarray, np.ndarray]:
        points = grid_points(TIMES, PLACES)
        return points, allen_cahn_values(points)

    terms = {"equation": gt.Term(equation)}
    title, grid = "Allen-Cahn equation", (len(TIMES), len(PLACES))
    return ResidualProblem(title, sizes, terms, draw, True, answer, grid, value)
