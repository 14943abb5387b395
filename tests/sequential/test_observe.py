"""`update` passes the weights of single samples to the callback `observe`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases

NET = gt.Network([nn.Dense(4), nn.tanh, gt.Residual([nn.Dense(4), nn.tanh]), nn.Dense(3)])
LOSS = optax.softmax_cross_entropy_with_integer_labels
X, Y = jax.random.normal(jax.random.key(1), (6, 5)), jnp.arange(6) % 3
PARAMS = NET.init(jax.random.key(0), X)

TRANSFORMATIONS: dict[str, Any] = {
    "implicit": lambda: gt.implicit(optax.adam(0.1), NET, LOSS, weighting="full"),
    "chain": lambda: optax.chain(optax.identity(), gt.adam(NET, LOSS, 0.1)),
}


@pytest.mark.parametrize("name", quick_cases(TRANSFORMATIONS))
def test_the_observer_sees_the_weights_that_the_report_sums_up(name: str) -> None:
    tx = TRANSFORMATIONS[name]()

    @jax.jit
    def step(state: Any) -> Any:
        seen: list[jax.Array] = []
        zeros = jax.tree.map(jnp.zeros_like, PARAMS)
        _, after = tx.update(zeros, state, PARAMS, batch=(X, Y), observe=seen.append)
        return after, seen[0]

    state = tx.init(PARAMS)
    after, weights = step(state)
    report = next(
        entry.report
        for entry in jax.tree.leaves(after, is_leaf=lambda entry: hasattr(entry, "report"))
        if hasattr(entry, "report")
    )
    assert weights.shape == (1 if name == "implicit" else len(NET.stages), len(Y))
    np.testing.assert_allclose(weights.min(), report.sample_weight_min, rtol=1e-6)
    np.testing.assert_allclose(weights.max(), report.sample_weight_max, rtol=1e-6)
    np.testing.assert_allclose(weights.std(axis=1), report.sample_weight_std, rtol=1e-4, atol=1e-7)
    assert weights.std() > 1e-4
