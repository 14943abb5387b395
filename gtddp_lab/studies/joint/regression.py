"""Regression: an image as a function of its coordinates, and a table of patients.

The error is that of the fit of the data, relative L2. All samples are in every step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.joint.problem import ResidualProblem, grid_points
from gtddp_lab.studies.joint.tanh_network import network_value

IMAGE_WIDTH = 32


def fit_problem(
    title: str,
    sizes: tuple[int, ...],
    points: np.ndarray,
    values: np.ndarray,
    grid: tuple[int, int] | None = None,
) -> ResidualProblem:
    """Half the mean square of `network - value` over all points.

    Args:
        title: of the problem.
        sizes: of the network.
        points: [n, D].
        values: [n].
        grid: shape of the points if they are a grid.
    """

    def misfit(params: Any, sample: Any) -> jax.Array:
        point, value = sample
        return network_value(params, point) - value

    def draw(key: jax.Array, factor: float) -> dict[str, Any]:
        del key, factor
        return {"fit": (jnp.asarray(points), jnp.asarray(values))}

    terms = {"fit": gt.Term(misfit)}
    return ResidualProblem(title, sizes, terms, draw, False, lambda: (points, values), grid)


def image_problem(sizes: tuple[int, ...]) -> ResidualProblem:
    """The photograph of a flower that scikit-learn has, grey, as 32 x 32 averages minus the mean.

    Coordinates are in [-6, 6], so that the network can vary over a few pixels.
    """
    from sklearn.datasets import load_sample_image

    side = 384 // IMAGE_WIDTH
    grey = np.asarray(load_sample_image("flower.jpg"), float).mean(-1)[:384, 160:544] / 255
    small = grey.reshape(IMAGE_WIDTH, side, IMAGE_WIDTH, side).mean((1, 3))
    # The first coordinate to the right, the second one up.
    values = small[::-1].T.ravel()
    points = grid_points(*[np.linspace(-6.0, 6.0, IMAGE_WIDTH)] * 2)
    grid = (IMAGE_WIDTH, IMAGE_WIDTH)
    return fit_problem("image, 32 x 32", sizes, points, values - values.mean(), grid)


def diabetes_problem(sizes: tuple[int, ...]) -> ResidualProblem:
    """The 442 patients of scikit-learn's diabetes table; inputs and target have variance 1."""
    from sklearn.datasets import load_diabetes

    inputs, targets = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
    points, values = ((x - x.mean(0)) / x.std(0) for x in (inputs, targets))
    return fit_problem("diabetes table", sizes, points, values)
