"""Arithmetic on trees of arrays with a sample axis."""

import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.core.trees import expand_per_sample


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4, 2), (3, 1, 2, 5)])
def test_a_number_per_sample_multiplies_the_whole_sample(shape: tuple[int, ...]) -> None:
    x, weights = np.random.default_rng(0).normal(size=shape), np.array([2.0, -0.5, 0.0])
    product = expand_per_sample(jnp.asarray(weights), jnp.asarray(x)) * jnp.asarray(x)
    want = np.stack([weight * sample for weight, sample in zip(weights, x, strict=True)])
    np.testing.assert_array_equal(product, want)
