"""The vectors of a player: their values, and their precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.curvature.kronecker.matrix_layouts import matrix_layout
from tests.curvature.kronecker import joint


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("name", ["tokens", "averaged"])
def test_vectors_have_at_least_single_precision(name: str, dtype: str) -> None:
    """Products of vectors are summed, so vectors of half precision would lose digits there."""
    t = joint.TABLES[name]()
    op = t.stage.player_ops[0]
    layout: Any = matrix_layout(op, t.params[op.name])
    x, g = t.data.x[op.name].astype(dtype), t.data.g[op.name].astype(dtype)
    wide = joint.vectors(op.module, t.params[op.name], x.astype(float), g.astype(float))
    for got, want in ((layout.input_vectors(x), wide.a), (layout.adjoint_vectors(g), wide.b)):
        assert got.dtype == jnp.promote_types(dtype, jnp.float32)
        # Vectors are copies of numbers, so that nothing is rounded.
        np.testing.assert_array_equal(jax.device_get(got)[:, :, 0], want)
