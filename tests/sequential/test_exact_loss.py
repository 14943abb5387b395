"""The exact-loss terminal model: `gtddp` equals `gt.reference.collapsed_step`."""

import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.sequential import methods, oracle, zoo

SHIFTS = {"no bound": None, "wide": 1.0, "narrow": 0.05}
GD = methods.sgd(gt.curvature.SGD(0.2), 0.2)


@pytest.mark.parametrize("loss", quick_cases(zoo.LOSSES))
def test_loss_equals_the_reference(loss: str) -> None:
    games = {
        label: oracle.Game(loss, GD, "exact_loss", max_shift=shift)
        for label, shift in SHIFTS.items()
    }
    oracle.compare(zoo.problem("small", batch=4, seed=3), games, spread=0.003)


@pytest.mark.parametrize(
    "name", quick_cases(["shortcut_at_1", "nested", "cooperative_of_three", "conv"])
)
def test_network_equals_the_reference(name: str) -> None:
    rate = zoo.NETS[name].rate
    method = methods.sgd(gt.curvature.SGD(rate), rate)
    game = oracle.Game("softmax", method, "exact_loss", decay=0.1)
    oracle.compare(zoo.problem(name), {"exact_loss": game}, spread=0.02)


@pytest.mark.parametrize(
    "name", quick_cases(["sgd_momentum", "rmsprop_nesterov", "adamw", "from_optax_adam"], "adamw")
)
def test_curvature_over_steps(name: str) -> None:
    game = oracle.Game("logistic", methods.METHODS[name], "exact_loss", max_shift=0.5, decay=0.1)
    oracle.compare(zoo.problem("small"), {"exact_loss": game}, steps=3, spread=0.02)
