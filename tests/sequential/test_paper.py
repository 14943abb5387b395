"""The game as published, against the dense definition taken literally."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

RATE, EPS = 0.02, 1e-8


def take_step(problem: zoo.Problem, tx: Any) -> Any:
    @jax.jit
    def step(params: Any) -> Any:
        return tx.update(None, tx.init(params), params, batch=(problem.x, problem.y))

    return step(problem.params)


@pytest.mark.parametrize("name", quick_cases(["small", "nested"], "small"))
def test_rmsprop_is_the_definition(name: str) -> None:
    """Alg. 1 with Table 1: one Q_uu for gain and feedback, from the open gradient of the step."""
    problem = zoo.problem(name)
    loss = zoo.LOSSES["softmax"]
    tx: Any = gt.paper_gtddp(
        problem.net, loss, gt.curvature.RMSProp(RATE, decay=0.9, eps=EPS, initial_scale=0.1)
    )

    def inverse(t: int, q: jax.Array) -> jax.Array:
        del t
        return RATE * jnp.diag(1 / jnp.sqrt(0.9 * 0.1 + 0.1 * q**2 + EPS))

    @jax.jit
    def dense(params: Any) -> Any:
        return gt.reference.ddp_step(
            problem.net.stages,
            params,
            problem.x,
            lambda outputs: loss(outputs, problem.y),
            gt.reference.HESSIANS["gradient"],
            gt.reference.preconditioned_gains(inverse),
            rollout="nonlinear",
        ).steps

    want = dense(problem.params)
    got, state = take_step(problem, tx)
    assert oracle.relative_error(got, want) < 1e-9
    assert state.report.sample_weight_std.max() > 0.001
    # Not the default game, nor the same with closed statistics.
    for other in (
        gt.gtddp(problem.net, loss, gt.curvature.RMSProp(RATE, initial_scale=0.1)),
        gt.gtddp(
            problem.net,
            loss,
            gt.curvature.RMSProp(RATE, initial_scale=0.1),
            terminal=gt.terminal.GradientHessian(),
            rollout="nonlinear",
        ),
    ):
        updates, _ = take_step(problem, other)
        assert oracle.relative_error(updates, want) > 1e-6


def test_open_statistics_hold_the_open_gradient() -> None:
    """Without a later stage's say: the state is that of the base method alone."""
    problem = zoo.problem("small")
    loss = zoo.LOSSES["softmax"]
    states, steps = [], []
    for feedback in (True, False):
        tx = gt.adam(
            problem.net,
            loss,
            0.05,
            statistics="open",
            equilibrium="feedback" if feedback else "open_loop",
        )
        updates, state = take_step(problem, tx)
        steps.append(ravel_pytree(updates)[0])
        states.append(state.curvature)
    last = len(states[0]) - 1
    # The last stage's open gradient is that of the loss; the first ones' include later plans.
    for got, want in zip(*(jax.tree.leaves(state[last]) for state in states), strict=True):
        assert jnp.allclose(got, want, rtol=1e-12, atol=0)
    assert not jnp.allclose(*steps)


def test_statistics_are_checked() -> None:
    with pytest.raises(ValueError, match=r"statistics='both'.*'closed', 'open'"):
        gt.curvature.Adam(1e-3, statistics="both")
    with pytest.raises(ValueError, match=r"statistics='both'"):
        gt.curvature.FromOptax(optax.sgd(0.1), statistics="both")
    accumulating = optax.MultiSteps(optax.sgd(0.1), 2)
    with pytest.raises(ValueError, match=r"MultiSteps.*statistics='closed'"):
        gt.curvature.FromOptax(accumulating, statistics="open")
