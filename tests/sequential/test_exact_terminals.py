"""Every loss with every quadratic terminal model equals the dense reference."""

import pytest

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.default_run import quick_cases
from tests.sequential import methods, oracle, zoo

BENT = {"batch": 4, "seed": 3}
"""A batch in which `welsch` has curvature of both signs."""


def descent(rate: float) -> methods.Method:
    return methods.sgd(gt.curvature.SGD(rate), rate)


RATES = {"gradient": 0.02, "projected": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("loss", zoo.LOSSES)
def test_loss_equals_the_dense_definition(loss: str) -> None:
    games = {
        f"{terminal}, {rollout}": oracle.Game(loss, descent(rate), terminal, rollout)
        for terminal, rate in RATES.items()
        for rollout in ROLLOUTS
    }
    oracle.compare(zoo.problem("small", **BENT), games, spread=0.02)


@pytest.mark.parametrize("batch", quick_cases([1, 7]))
def test_batch_size(batch: int) -> None:
    games = {r: oracle.Game("softmax", descent(0.1), rollout=r, decay=0.2) for r in ROLLOUTS}
    oracle.compare(zoo.problem("small", batch=batch), games, spread=0.02)
