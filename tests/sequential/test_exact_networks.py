"""Every network: `gtddp` equals the dense reference."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.default_run import quick_cases
from tests.sequential import methods, oracle, zoo


@pytest.mark.parametrize("name", quick_cases(zoo.NETS))
def test_network_equals_the_dense_definition(name: str) -> None:
    rate = zoo.NETS[name].rate
    method = methods.sgd(gt.curvature.SGD(rate), rate)
    games = {r: oracle.Game("squared", method, rollout=r) for r in ROLLOUTS}
    oracle.compare(zoo.problem(name), games)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.COUPLED)
def test_batch_normalisation_equals_the_dense_definition(name: str) -> None:
    rate = zoo.COUPLED[name].rate
    method = methods.sgd(gt.curvature.SGD(rate), rate)
    pairs = [("exact_loss", "linear"), ("projected", "nonlinear"), ("gradient", "linear")]
    games = {terminal: oracle.Game("squared", method, terminal, r) for terminal, r in pairs}
    oracle.compare(zoo.problem(name, batch=4), games)


@pytest.mark.parametrize("rollout", quick_cases(ROLLOUTS))
@pytest.mark.parametrize("terminal", quick_cases(["projected", "gradient"]))
def test_the_two_definitions_agree(terminal: str, rollout: str) -> None:
    """`collapsed_step` from dense gradients equals `ddp_step` with its matrices."""
    problem = zoo.problem("shortcut_at_1")

    def gains(t: int, q: jax.Array, *others: Any) -> gt.reference.Gains:
        inverse = 0.3 * jnp.eye(q.size)
        return gt.reference.Gains(-inverse @ q, inverse, lambda closed: -inverse @ closed)

    def losses(outputs: jax.Array) -> jax.Array:
        return zoo.LOSSES["softmax"](outputs, problem.y)

    @jax.jit
    def both() -> tuple[Any, Any]:
        given = (problem.net.stages, problem.params, problem.x, losses)
        hessian = gt.reference.HESSIANS[terminal]
        return gt.reference.collapsed_step(
            *given, gains, terminal=terminal, rollout=rollout
        ), gt.reference.ddp_step(*given, hessian, gains, rollout=rollout).steps

    assert oracle.relative_error(*both()) < 1e-12
