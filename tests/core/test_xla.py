"""Workarounds for the XLA compiler change programs, not numbers."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.xla import materialize


def test_finished_numbers_are_the_same() -> None:
    x = jnp.array([0.0, -0.0, 1.5, jnp.inf, -jnp.inf, jnp.nan])
    for dtype in (jnp.float64, jnp.bfloat16):
        tree: Any = materialize({"x": x.astype(dtype)})
        got = tree["x"]
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.astype(float), x)  # all of them are exact in either
