"""The `line` terminal, exactly: `gtddp` equals the loops of `gt.reference.collapsed_step`."""

import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.core import methods, oracle, zoo

SHIFTS = {"no bound": None, "wide": 1.0, "narrow": 0.05}
GD = methods.sgd(gt.curvature.identity(0.2), 0.2)


@pytest.mark.parametrize("loss", zoo.LOSSES)
def test_loss_equals_its_slopes(loss: str) -> None:
    games = {
        label: oracle.Game(loss, GD, "line", max_shift=shift) for label, shift in SHIFTS.items()
    }
    oracle.compare(zoo.problem("small", batch=4, seed=3), games, spread=0.003)


@pytest.mark.parametrize("name", ["shortcut_at_1", "nested", "cooperative_of_three", "conv"])
def test_network_equals_its_slopes(name: str) -> None:
    rate = zoo.NETS[name].rate
    method = methods.sgd(gt.curvature.identity(rate), rate)
    game = oracle.Game("softmax", method, "line", decay=0.1)
    oracle.compare(zoo.problem(name), {"line": game}, spread=0.02)


@pytest.mark.parametrize("name", ["sgd_momentum", "rmsprop_nesterov", "adamw", "from_optax_adam"])
def test_curvature_over_steps(name: str) -> None:
    game = oracle.Game("logistic", methods.METHODS[name], "line", max_shift=0.5, decay=0.1)
    oracle.compare(zoo.problem("small"), {"line": game}, steps=3, spread=0.02)


def test_the_bound_is_in_units_of_the_outputs() -> None:
    """psi'(s) moves the outputs by s g / |g|^2, of length |s| / |g|; `max_shift` bounds that."""
    outputs, y = jnp.array([[3.0, 0.0], [0.0, 0.2]]), jnp.zeros((2, 2))
    model = gt.terminal.line(max_shift=0.5).expand(
        lambda o: zoo.LOSSES["pseudo_huber"](o, y), outputs
    )

    def slope(at: float) -> float:
        return float(at / jnp.sqrt(1 + 4 * at**2))

    far = model.slope(jnp.array([-100.0, 100.0]))
    assert far[0] == pytest.approx(slope(2.5) / slope(3.0), rel=1e-12)
    assert far[1] == pytest.approx(slope(0.7) / slope(0.2), rel=1e-12)
