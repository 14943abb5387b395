"""The Allen-Cahn equation in one dimension, with a spectral reference solution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.joint.burgers import strip_points
from gtddp_lab.studies.joint.problem import ResidualProblem, grid_points
from gtddp_lab.studies.joint.tanh_network import TanhNetwork, point_derivatives

DIFFUSION, REACTION = 1e-4, 5.0
TIMES, PLACES = np.linspace(0.0, 1.0, 51), np.linspace(-1.0, 1.0, 257)


def allen_cahn_values(intervals: int = 1024, steps: int = 1000) -> np.ndarray:
    """The solution at TIMES and PLACES, [times, places].

    A sine series for w = u + 1, which vanishes at both ends, and exponential time differencing of
    fourth order (Cox and Matthews 2002) with the coefficients of Kassam and Trefethen (2005).

    Args:
        intervals: between the nodes; a multiple of those of PLACES.
        steps: of time; a multiple of those of TIMES.
    """
    nodes = np.linspace(-1.0, 1.0, intervals + 1)
    wave_numbers = np.pi / 2 * np.arange(intervals + 1)
    linear, step = -DIFFUSION * wave_numbers**2, 1.0 / steps

    def to_series(w: np.ndarray) -> np.ndarray:
        """Coefficients of the odd continuation."""
        return np.fft.rfft(np.concatenate([w, -w[-2:0:-1]]))

    def to_nodes(series: np.ndarray) -> np.ndarray:
        return np.fft.irfft(series, 2 * intervals)[: intervals + 1]

    def reaction(series: np.ndarray) -> np.ndarray:
        u = to_nodes(series) - 1
        return to_series(REACTION * (u - u**3))

    roots = np.exp(1j * np.pi * (np.arange(32) + 0.5) / 32)
    z = step * linear[:, None] + roots[None]
    half = step * ((np.exp(z / 2) - 1) / z).mean(1).real
    weights = [
        step * part.mean(1).real
        for part in (
            (-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3,
            (2 + z + np.exp(z) * (z - 2)) / z**3,
            (-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3,
        )
    ]
    whole_decay, half_decay = np.exp(step * linear), np.exp(step * linear / 2)
    w = to_series(nodes**2 * np.cos(np.pi * nodes) + 1)
    kept = [to_nodes(w)]
    for number in range(1, steps + 1):
        first = reaction(w)
        a = half_decay * w + half * first
        second = reaction(a)
        b = half_decay * w + half * second
        third = reaction(b)
        c = half_decay * a + half * (2 * third - first)
        w = whole_decay * w + weights[0] * first + 2 * weights[1] * (second + third)
        w = w + weights[2] * reaction(c)
        if number % (steps // (len(TIMES) - 1)) == 0:
            kept.append(to_nodes(w))
    return np.stack(kept)[:, :: intervals // (len(PLACES) - 1)] - 1


def allen_cahn_problem(
    sizes: tuple[int, ...], count: int, title: str = "Allen-Cahn equation"
) -> ResidualProblem:
    """`u_t = 1e-4 u_xx + 5 (u - u^3)`, `u(0, x) = x^2 cos(pi x)`, `u(t, -1) = u(t, 1) = -1`.

    Initial and boundary values are exact by construction.
    """

    def parts(params: TanhNetwork, point: jax.Array) -> tuple[jax.Array, ...]:
        """u, u_t and u_xx of `u = x^2 cos(pi x) + t (1 - x^2) network`."""
        time, place = point
        found = point_derivatives(params, point, jnp.array([0.0, 1.0]))
        value, (by_time, by_place) = found.value, found.gradient
        sine, cosine = jnp.sin(jnp.pi * place), jnp.cos(jnp.pi * place)
        bump = 1 - place**2
        start = (2 - jnp.pi**2 * place**2) * cosine - 4 * jnp.pi * place * sine
        return (
            place**2 * cosine + time * bump * value,
            bump * (value + time * by_time),
            start + time * (bump * found.second - 4 * place * by_place - 2 * value),
        )

    def equation(params: Any, point: Any) -> jax.Array:
        value, by_time, second = parts(params, point)
        return by_time - DIFFUSION * second - REACTION * (value - value**3)

    def draw(key: jax.Array, factor: float) -> dict[str, jax.Array]:
        return {"equation": strip_points(key, round(factor * count))}

    def answer() -> tuple[np.ndarray, np.ndarray]:
        return grid_points(TIMES, PLACES), allen_cahn_values().ravel()

    def value(params: Any, point: Any) -> jax.Array:
        return parts(params, point)[0]

    terms = {"equation": gt.Term(equation)}
    grid = (len(TIMES), len(PLACES))
    return ResidualProblem(title, sizes, terms, draw, True, answer, grid, value)
