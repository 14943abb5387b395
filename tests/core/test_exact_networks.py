"""Every network, exactly: `gtddp` equals the dense definition of DESIGN §2."""

import pytest

import gtddp_jax as gt
from gtddp_jax.game.rollout import ROLLOUTS
from tests.core import methods, oracle, zoo


@pytest.mark.parametrize("name", zoo.NETS)
def test_network_equals_the_dense_definition(name: str) -> None:
    rate = zoo.NETS[name].rate
    method = methods.sgd(gt.curvature.identity(rate), rate)
    games = {r: oracle.Game("squared", method, rollout=r) for r in ROLLOUTS}
    oracle.compare(zoo.problem(name), games)
