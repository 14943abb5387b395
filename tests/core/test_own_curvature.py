"""A stage that answers to its own step, exactly (DESIGN §4: `Q_uu = P^-1 + f_u^T V_xx f_u`)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.core import methods, oracle, zoo

NETWORKS = ["shortcut_at_1", "cooperative_of_three", "conv"]
RATE = 0.1


def game(name: str, **options: Any) -> oracle.Game:
    return oracle.Game("softmax", methods.METHODS[name], own_curvature=True, decay=0.1, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_the_loops(name: str) -> None:
    rate = zoo.NETS[name].rate
    method = methods.sgd(gt.curvature.identity(rate, 0.9), rate, 0.9)
    games = {
        terminal: oracle.Game("softmax", method, terminal, own_curvature=True, decay=0.1)
        for terminal in ("line", "projected")
    }
    oracle.compare(zoo.problem(name), games, steps=2, spread=0.003)


@pytest.mark.parametrize("name", ["adamw", "from_optax_adam"])
def test_curvature_over_steps(name: str) -> None:
    games = {
        "bounded": game(name, terminal="line", bounds=(0.5, 1.05)),
        "nonlinear": game(name, terminal="line", rollout="nonlinear"),
    }
    oracle.compare(zoo.problem("small"), games, steps=2, spread=0.003)


@pytest.mark.parametrize("name", ["tiny", "shortcut_at_1", "cooperative_of_three"])
def test_one_sample_equals_the_recursion_with_the_whole_matrix(name: str) -> None:
    """With one sample the scalar equation is Eq. 25's inverse, by Sherman and Morrison."""
    p = zoo.problem(name, batch=1)
    loss = zoo.LOSSES["softmax"]

    def metric(t: int) -> jax.Array:
        return jnp.eye(oracle.owned(p.params, p.net.stages[t]).u.size) / RATE

    def recursion(params: Any) -> Any:
        return gt.reference.ddp_step(
            p.net.stages,
            params,
            p.x,
            lambda outputs: loss(outputs, p.y),
            gt.reference.HESSIANS["projected"],
            gt.reference.with_own_curvature(metric),
            rollout="linear",
        ).steps

    curvature, terminal = gt.curvature.identity(RATE), gt.terminal.projected()
    games: dict[bool, Any] = {
        own: gt.gtddp(p.net, loss, curvature, terminal=terminal, own_curvature=own)
        for own in (True, False)
    }

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
    def step(params: Any, states: Any) -> Any:
        batch = (p.x, p.y)
        return {own: tx.update(None, states[own], params, batch=batch) for own, tx in games.items()}

    want = jax.jit(recursion, compiler_options=oracle.FAST)(p.params)
    ours = step(p.params, {own: tx.init(p.params) for own, tx in games.items()})
    assert not any(state.report.skipped for _, state in ours.values())
    found = {own: steps for own, (steps, _) in ours.items()}
    assert oracle.relative_error(found[True], want) < 1e-9
    assert oracle.relative_error(found[False], want) > 1e-3


def test_default_is_the_true_loss_with_bounded_weights() -> None:
    p, loss = zoo.problem("tiny", batch=4, seed=3), zoo.LOSSES["softmax"]
    line = gt.terminal.line(max_shift=1.0, bounds=(0.02, 10.0))
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "spelled out": {"terminal": line, "own_curvature": False},
        "own": {"own_curvature": True},
        "unbounded": {"terminal": gt.terminal.line(None)},
    }
    games: dict[str, Any] = {
        name: gt.sgd(p.net, loss, 1.0, **given) for name, given in options.items()
    }

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
    def step(params: Any, states: Any) -> Any:
        batch = (p.x, p.y)
        return {
            name: tx.update(None, states[name], params, batch=batch)[0]
            for name, tx in games.items()
        }

    found = step(p.params, {name: tx.init(p.params) for name, tx in games.items()})
    assert oracle.relative_error(found["default"], found["spelled out"]) < 1e-12
    assert oracle.relative_error(found["default"], found["own"]) > 1e-3
    assert oracle.relative_error(found["default"], found["unbounded"]) > 1e-3
