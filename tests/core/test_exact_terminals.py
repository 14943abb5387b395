"""Every loss under every quadratic terminal model, exactly, at several batch sizes."""

import jax
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.game.rollout import ROLLOUTS
from tests.core import methods, oracle, zoo

BENT = {"batch": 4, "seed": 3}
"""A batch in which `welsch` has curvature of both signs."""


def descent(rate: float) -> methods.Method:
    return methods.sgd(gt.curvature.identity(rate), rate)


RATES = {"gradient": 0.02, "projected": 0.1}


@pytest.mark.parametrize("loss", zoo.LOSSES)
def test_loss_equals_the_dense_definition(loss: str) -> None:
    games = {
        f"{terminal}, {rollout}": oracle.Game(loss, descent(rate), terminal, rollout)
        for terminal, rate in RATES.items()
        for rollout in ROLLOUTS
    }
    oracle.compare(zoo.problem("small", **BENT), games, spread=0.02)


@pytest.mark.parametrize("batch", [1, 7])
def test_batch_size(batch: int) -> None:
    games = {r: oracle.Game("softmax", descent(0.1), rollout=r, decay=0.2) for r in ROLLOUTS}
    oracle.compare(zoo.problem("small", batch=batch), games, spread=0.02)


def test_negative_curvature_is_taken_for_none() -> None:
    """The loss `welsch` bends down far from its minimum; h = 0 there."""
    p = zoo.problem("small", **BENT)
    outputs = p.net.apply(p.params, p.x)
    bends = []
    for o, y in zip(outputs, p.y, strict=True):

        def loss(o: jax.Array, y: jax.Array = y) -> jax.Array:
            return zoo.LOSSES["welsch"](o[None], y[None])[0]

        g = jax.grad(loss)(o)
        bends.append(float(g @ jax.hessian(loss)(o) @ g / (g @ g) ** 2))
    assert min(bends) < -0.1 and max(bends) > 0.1
    for terminal in (gt.terminal.projected(), gt.terminal.line()):
        h = terminal.expand(lambda o: zoo.LOSSES["welsch"](o, p.y), outputs).curvature
        np.testing.assert_allclose(h, np.maximum(bends, 0), rtol=1e-9)
