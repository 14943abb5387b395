"""An image as a function of its coordinates, and the diabetes table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.joint.problem import ResidualProblem, Samples, grid_points
from gtddp_lab.studies.joint.tanh_network import TanhNetwork, network_value

FREQUENCIES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Of the sines and cosines that the network of the image sees, in half turns across the image."""


@functools.cache
def photograph(width: int) -> np.ndarray:
    """A square part of scikit-learn's picture of a flower, gray, in [0, 1]: [width, width]."""
    from sklearn.datasets import load_sample_image

    gray = load_sample_image("flower.jpg").mean(-1)[:384, 160:544] / 255
    step = 384 // width
    return gray[: step * width, : step * width].reshape(width, step, width, step).mean((1, 3))


def image_features(point: jax.Array) -> jax.Array:
    """Coordinates in [-1, 1], and their sines and cosines."""
    angles = (jnp.pi / 2 * jnp.asarray(FREQUENCIES)[:, None] * point[None]).ravel()
    return jnp.concatenate([point, jnp.sin(angles), jnp.cos(angles)])


def image_problem(hidden: tuple[int, ...], width: int, count: int) -> ResidualProblem:
    """Regress the gray values of a photograph on the coordinates, some pixels in each step."""
    pixels = photograph(width).ravel() - 0.5
    axis = np.linspace(-1.0, 1.0, width)
    points = grid_points(axis, axis)

    def value(params: TanhNetwork, point: jax.Array) -> jax.Array:
        return network_value(params, image_features(point))

    def misfit(params: TanhNetwork, sample: Samples) -> jax.Array:
        point, gray = sample
        return value(params, point) - gray

    def draw(key: jax.Array, factor: int) -> dict[str, Samples]:
        wanted = min(factor * count, len(points))
        rows = jax.random.choice(key, len(points), (wanted,), replace=False)
        return {"misfit": (jnp.asarray(points)[rows], jnp.asarray(pixels)[rows])}

    sizes = (2 + 4 * len(FREQUENCIES), *hidden, 1)
    terms = {"misfit": gt.Term(misfit)}
    return ResidualProblem(
        "image by coordinates",
        sizes,
        terms,
        draw,
        count < len(points),
        lambda: (points, pixels),
        (width, width),
        value,
    )


def diabetes_problem(hidden: tuple[int, ...], decay: float) -> ResidualProblem:
    """Regress the progression of diabetes on ten measurements, with weight decay as a term.

    The error is on 110 patients that were not trained on, relative to the mean's.
    """

    @functools.cache
    def table() -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_diabetes

        measurements, progression = load_diabetes(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(progression))
        return measurements[order] * 21, ((progression - 152) / 77)[order]

    def misfit(params: TanhNetwork, sample: Samples) -> jax.Array:
        measurements, progression = sample
        return network_value(params, measurements) - progression

    def small(params: TanhNetwork, scale: jax.Array) -> jax.Array:
        return scale * jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])

    def draw(key: jax.Array, factor: int) -> dict[str, Samples]:
        del key, factor
        measurements, progression = map(jnp.asarray, table())
        return {
            "misfit": (measurements[110:], progression[110:]),
            "decay": jnp.array([decay**0.5]),
        }

    def answer() -> tuple[np.ndarray, np.ndarray]:
        measurements, progression = table()
        return measurements[:110], progression[:110]

    terms = {"misfit": gt.Term(misfit), "decay": gt.Term(small)}
    return ResidualProblem("diabetes", (10, *hidden, 1), terms, draw, False, answer)
