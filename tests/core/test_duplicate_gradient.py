"""A loss gradient that is passed as the gradient of a running cost is noticed."""

import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.core.report import is_duplicate_gradient


@pytest.mark.parametrize(("difference", "expected"), [(0.005, True), (0.015, False)])
def test_a_gradient_is_a_duplicate_within_a_hundredth(difference: float, expected: bool) -> None:
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    assert bool(is_duplicate_gradient(gradient, (1 + difference) * gradient)) == expected
    assert not is_duplicate_gradient(0 * gradient, 0 * gradient)


@pytest.mark.parametrize(("size", "decides"), [(7, False), (8, True)])
def test_the_smallest_array_of_eight_numbers_decides(size: int, decides: bool) -> None:
    """Fewer numbers may agree by chance. Here the small array agrees and the large one does not."""
    gradient = {"small": jnp.arange(1.0, 1 + size), "large": jnp.ones(12)}
    running = gradient | {"large": 2 * gradient["large"]}
    assert bool(is_duplicate_gradient(gradient, running)) == decides
