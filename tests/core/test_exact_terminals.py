"""Every loss under every quadratic terminal model, exactly, at several batch sizes."""

import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.game.rollout import ROLLOUTS
from tests.core import methods, oracle, zoo

GD = methods.sgd(gt.curvature.identity(0.1), 0.1)


@pytest.mark.parametrize("loss", zoo.LOSSES)
def test_loss_equals_the_dense_definition(loss: str) -> None:
    games = {
        f"{terminal}, {rollout}": oracle.Game(loss, GD, terminal, rollout)
        for terminal in ("gradient", "projected")
        for rollout in ROLLOUTS
    }
    oracle.compare(zoo.problem("small", batch=3), games, spread=0.02)


@pytest.mark.parametrize("batch", [1, 7])
def test_batch_size(batch: int) -> None:
    games = {r: oracle.Game("softmax", GD, rollout=r, decay=0.2) for r in ROLLOUTS}
    oracle.compare(zoo.problem("small", batch=batch), games, spread=0.02)


def test_negative_curvature_is_taken_for_none() -> None:
    """The loss `welsch` bends down far from its minimum; h = 0 there and the weights stay 1."""
    p = zoo.problem("small", batch=4, seed=3)
    residual = np.asarray(p.net.apply(p.params, p.x) - p.y)
    terminal = gt.terminal.projected()
    h = terminal.expand(
        lambda o: zoo.LOSSES["welsch"](o, p.y), p.net.apply(p.params, p.x)
    ).curvature
    size = np.square(residual).sum(-1)
    assert ((size > 4) == (np.asarray(h) == 0)).all() and 0 < (h == 0).sum() < 4
