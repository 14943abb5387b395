"""What the backward pass and the rollout tell the curvature and the observer, stage by stage."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typing_extensions import override

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS, LinearRollout
from tests.sequential import zoo


@pytest.mark.parametrize("feedback", [True, False])
def test_stages_without_feedback_have_weights_of_one(feedback: bool) -> None:
    """Those before the last batch normalization, or all: in the curvature and when observed."""
    layers: Any = [nn.Dense(2), nn.BatchNorm(), nn.Dense(2), jnp.tanh, nn.Dense(2)]
    p = zoo.make(zoo.Spec(lambda: layers, (2,)), batch=3)
    planned: list[jax.Array] = []
    observed: list[jax.Array] = []

    class Recording(gt.curvature.SGD):
        @override
        def policy(self, inputs: Any, state: Any) -> Any:
            planned.insert(0, inputs.sample_weights)  # the last stage is planned first
            return super().policy(inputs, state)

    tx: Any = gt.gtddp(
        p.net,
        zoo.LOSSES["softmax"],
        Recording(0.3),
        equilibrium="feedback" if feedback else "open_loop",
        batch_stats=p.batch_stats,
    )

    def weights() -> tuple[list[jax.Array], jax.Array]:
        arguments: Any = {"batch": (p.x, p.y), "observe": observed.append}
        tx.update(None, tx.init(p.params), p.params, **arguments)
        return planned, observed[0]

    alpha, taken = map(np.asarray, jax.jit(weights)())
    without = 1 if feedback else len(p.net.stages)
    for found in (alpha, taken):
        assert len(found) == len(p.net.stages)
        np.testing.assert_array_equal(found[:without], 1)
    assert not feedback or min(np.ptp(alpha[1]), *np.ptp(taken[1:], axis=1)) > 1e-3


def test_a_step_beyond_the_minimum_keeps_the_curvature_positive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A product of three numbers, o = w3 w2 w1 x: rho_t = d rate (o / w_t)^2 / B, by hand."""
    seen: list[jax.Array] = []

    class Recording(LinearRollout):
        @override
        def observe_step(self, t: int, plan: Any, step: Any) -> jax.Array:
            seen.append(plan.d)
            return super().observe_step(t, plan, step)

    monkeypatch.setitem(ROLLOUTS, "linear", Recording)
    net = gt.Network([nn.Dense(1, use_bias=False, name=name) for name in ("a", "b", "c")])
    w, x, rate = np.array([0.5, -1.5, 0.8]), np.array([3.0, 0.7]), 2.0
    params = {name: {"kernel": jnp.full((1, 1), w[i])} for i, name in enumerate("abc")}
    terminal = gt.terminal.ProjectedHessian()
    tx: Any = gt.sgd(net, zoo.LOSSES["squared"], rate, terminal=terminal)

    def curvatures() -> list[jax.Array]:
        batch = (jnp.asarray(x)[:, None], jnp.ones((2, 1)))
        tx.update(None, tx.init(params), params, batch=batch)
        return seen

    first, second, last = jax.jit(curvatures)()
    slope = np.square(w.prod() * x[:, None] / w)  # of each sample, by each number
    rho = rate * slope[:, 2] / 2
    assert rho[0] > 1 > rho[1]
    np.testing.assert_array_equal(last, 1)
    # Of the first sample the smallest part is left that is representable.
    want = np.array([np.finfo(float).eps, 1 - rho[1]])
    np.testing.assert_allclose(second, want, rtol=1e-13)
    np.testing.assert_allclose(first, want * (1 - rate * want * slope[:, 1] / 2), rtol=1e-13)
