"""The self-response, `Q_uu = P^-1 + f_u^T V_xx f_u`, equals the reference."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential.optimizer import DEFAULT_BOUNDS, DEFAULT_MAX_SHIFT
from tests.default_run import quick_cases
from tests.sequential import methods, oracle, zoo

NETWORKS = ["shortcut_at_1", "cooperative_of_three", "conv"]
RATE = 0.1


def game(name: str, **options: Any) -> oracle.Game:
    return oracle.Game("softmax", methods.METHODS[name], self_response=True, decay=0.1, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_the_loops(name: str) -> None:
    rate = zoo.NETS[name].rate
    method = methods.sgd(gt.curvature.SGD(rate, 0.9), rate, 0.9)
    games = {
        terminal: oracle.Game("softmax", method, terminal, self_response=True, decay=0.1)
        for terminal in ("exact_loss", "projected")
    }
    oracle.compare(zoo.problem(name), games, steps=2, spread=0.003)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "from_optax_adam"])
def test_curvature_over_steps(name: str) -> None:
    games = {
        "bounded": game(name, terminal="exact_loss", bounds=(0.5, 1.05)),
        "nonlinear": game(name, terminal="exact_loss", rollout="nonlinear"),
    }
    oracle.compare(zoo.problem("small"), games, steps=2, spread=0.003)


@pytest.mark.parametrize("name", quick_cases(["tiny", "shortcut_at_1", "cooperative_of_three"]))
def test_one_sample_equals_the_recursion_with_the_whole_matrix(name: str) -> None:
    """For one sample the scalar equation is the inverse of Eq. 25 (Sherman-Morrison)."""
    problem = zoo.problem(name, batch=1)
    loss = zoo.LOSSES["softmax"]

    def metric(t: int) -> jax.Array:
        return jnp.eye(oracle.owned(problem.params, problem.net.stages[t]).u.size) / RATE

    def recursion(params: Any) -> Any:
        return gt.reference.ddp_step(
            problem.net.stages,
            params,
            problem.x,
            lambda outputs: loss(outputs, problem.y),
            gt.reference.HESSIANS["projected"],
            gt.reference.stage_curvature_gains(metric),
            rollout="linear",
        ).steps

    curvature, terminal = gt.curvature.SGD(RATE), gt.terminal.ProjectedHessian()
    games: dict[bool, Any] = {
        own: gt.gtddp(problem.net, loss, curvature, terminal=terminal, self_response=own)
        for own in (True, False)
    }

    @jax.jit
    def step(params: Any, states: Any) -> Any:
        batch = (problem.x, problem.y)
        return {own: tx.update(None, states[own], params, batch=batch) for own, tx in games.items()}

    want = jax.jit(recursion)(problem.params)
    ours = step(problem.params, {own: tx.init(problem.params) for own, tx in games.items()})
    assert not any(state.report.skipped for _, state in ours.values())
    found = {own: steps for own, (steps, _) in ours.items()}
    assert oracle.relative_error(found[True], want) < 1e-9
    assert oracle.relative_error(found[False], want) > 1e-3


def test_default_is_the_true_loss_with_bounded_weights() -> None:
    problem, loss = zoo.problem("tiny", batch=4, seed=3), zoo.LOSSES["softmax"]
    terminal = gt.terminal.ExactLoss(max_shift=1.0, bounds=(0.02, 10.0))
    assert terminal == gt.terminal.ExactLoss(DEFAULT_MAX_SHIFT, DEFAULT_BOUNDS)
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "spelled out": {"terminal": terminal, "self_response": False},
        "self-response": {"self_response": True},
        "unbounded": {"terminal": gt.terminal.ExactLoss(None)},
    }
    games: dict[str, Any] = {
        name: gt.sgd(problem.net, loss, 1.0, **given) for name, given in options.items()
    }

    @jax.jit
    def step(params: Any, states: Any) -> Any:
        batch = (problem.x, problem.y)
        return {
            name: tx.update(None, states[name], params, batch=batch)[0]
            for name, tx in games.items()
        }

    found = step(problem.params, {name: tx.init(problem.params) for name, tx in games.items()})
    assert oracle.relative_error(found["default"], found["spelled out"]) < 1e-12
    assert oracle.relative_error(found["default"], found["self-response"]) > 1e-3
    assert oracle.relative_error(found["default"], found["unbounded"]) > 1e-3
