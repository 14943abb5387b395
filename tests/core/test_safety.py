"""A step that is not finite is not taken, and what is wrong is said in words (DESIGN §9)."""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.game.rollout import ROLLOUTS
from tests.core import oracle, zoo

LOSS = zoo.LOSSES["squared"]
jit = functools.partial(jax.jit, compiler_options=oracle.FAST)


def spoil(x: jax.Array, value: float) -> jax.Array:
    return x.at[(1,) + (0,) * (x.ndim - 1)].set(value)


BAD = {"nan": jnp.nan, "inf": jnp.inf, "-inf": -jnp.inf}
PLACES = ("inputs", "targets", "params")


def spoiled(p: zoo.Problem, place: str, value: float) -> tuple[Any, Any, Any]:
    x, y, params = p.x, p.y, p.params
    if place == "inputs":
        x = spoil(x, value)
    elif place == "targets":
        y = spoil(y, value)
    else:
        head = p.net.players[-1]
        own = params[head]
        params = params | {head: own | {"kernel": spoil(own["kernel"], value)}}
    return x, y, params


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_bad_numbers_are_skipped_and_training_goes_on(rollout: str, feedback: bool) -> None:
    p = zoo.problem("tiny", batch=4, dtype=jnp.float32)
    tx: Any = gt.adam(p.net, LOSS, 0.05, rollout=rollout, feedback=feedback)
    step = jit(lambda state, params, x, y: tx.update(None, state, params, batch=(x, y)))
    _, state = step(tx.init(p.params), p.params, p.x, p.y)
    want, _ = step(state, p.params, p.x, p.y)
    skipped = 0
    for place in PLACES:
        for value in BAD.values():
            x, y, params = spoiled(p, place, value)
            updates, after = step(state, params, x, y)
            skipped += 1
            assert after.report.skipped and after.report.skipped_steps == skipped
            assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
            jax.tree.map(np.testing.assert_array_equal, after.curvature, state.curvature)
            state = after
    updates, state = step(state, p.params, p.x, p.y)
    assert not state.report.skipped and state.report.skipped_steps == skipped
    jax.tree.map(np.testing.assert_array_equal, updates, want)


@pytest.mark.parametrize("terminal", gt.terminal.TERMINALS)
def test_exploding_rate(terminal: str) -> None:
    """Finite gradients, a step whose effect on the loss overflows float32."""
    p = zoo.problem("small", batch=4, dtype=jnp.float32)
    model = gt.terminal.TERMINALS[terminal]()
    tx: Any = gt.sgd(p.net, LOSS, 1e37, momentum=0.9, terminal=model, rollout="nonlinear")
    state = tx.init(p.params)
    updates, after = jit(tx.update)(None, state, p.params, batch=(p.x, 10 * p.y))
    assert jnp.isfinite(after.report.loss)
    assert after.report.skipped and after.report.skipped_steps == 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, after.curvature, state.curvature)


def masked(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
    y, mask = targets
    return mask * LOSS(outputs, y)


@pytest.mark.parametrize("terminal", gt.terminal.TERMINALS)
def test_a_sample_without_gradient_is_neutral(terminal: str) -> None:
    """|g| = 0, here for padding: weight 1, curvature 0; the others play as without it."""
    p, mask = zoo.problem("small", batch=3), jnp.array([1.0, 0.0, 1.0])
    model = gt.terminal.TERMINALS[terminal]()
    end = model.expand(lambda o: masked(o, (p.y, mask)), p.net.apply(p.params, p.x))
    assert end.line.alive.tolist() == [True, False, True]
    assert end.slope(jnp.array([0.1, 5.0, -0.2]))[1] == 1 and end.curvature[1] == 0

    @jit
    def both(params: Any) -> tuple[Any, Any, Any]:
        tx: Any = gt.sgd(p.net, masked, 0.06, terminal=model)
        updates, state = tx.update(None, tx.init(params), params, batch=(p.x, (p.y, mask)))
        tx = gt.sgd(p.net, LOSS, 0.06 * 2 / 3, terminal=model)  # a mean over two, not three
        rest, _ = tx.update(None, tx.init(params), params, batch=(p.x[::2], p.y[::2]))
        return updates, state.report, rest

    got, report, want = both(p.params)
    assert not report.skipped and report.weight_max - report.weight_min > 0.03
    assert oracle.relative_error(got, want) < 1e-9


@pytest.mark.parametrize("running", ["nothing", "decay", "gradient", "gradient and decay"])
def test_double_counting_is_told(running: str) -> None:
    p = zoo.problem("small", batch=4)
    tx: Any = gt.sgd(p.net, LOSS, 0.01)

    @jit
    def report(params: Any) -> gt.Report:
        grads = jax.grad(lambda q: LOSS(p.net.apply(q, p.x), p.y).mean())(params)
        decay = jax.tree.map(lambda u: 0.01 * u, params)
        updates = {
            "nothing": None,
            "decay": decay,
            "gradient": grads,
            "gradient and decay": jax.tree.map(lambda g, d: g + 1e-3 * d, grads, decay),
        }[running]
        return tx.update(updates, tx.init(params), params, batch=(p.x, p.y))[1].report

    assert bool(report(p.params).double_counted) == running.startswith("gradient")


def test_missing_arguments_show_the_call() -> None:
    p = zoo.problem("tiny")
    tx: Any = gt.sgd(p.net, LOSS, 0.1)
    state = tx.init(p.params)
    call = r"tx\.update\(running_cost_gradient, state, params, batch=\(inputs, targets\)\)"
    with pytest.raises(ValueError, match=rf"missing batch\. Call {call}"):
        tx.update(None, state, p.params)
    with pytest.raises(ValueError, match=rf"missing params\. Call {call}"):
        tx.update(None, state, batch=(p.x, p.y))
    with pytest.raises(ValueError, match=rf"missing params and batch\. Call {call}"):
        tx.update(None, state)
    for batch in (p.x, (p.x,), (p.x, p.y, p.y), {"x": p.x}):
        with pytest.raises(ValueError, match=rf"must be a pair \(inputs, targets\), got .*{call}"):
            tx.update(None, state, p.params, batch=batch)


LOSSES = {
    "mean": lambda outputs, y: LOSS(outputs, y).mean(),
    "each output": lambda outputs, y: jnp.square(outputs - y),
    "kept axis": lambda outputs, y: LOSS(outputs, y)[:, None],
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_must_be_one_number_a_sample(name: str) -> None:
    p = zoo.problem("tiny")
    tx: Any = gt.sgd(p.net, LOSSES[name], 0.1)
    with pytest.raises(ValueError, match=r"one loss a sample, shape \(2,\), is needed"):
        tx.update(None, tx.init(p.params), p.params, batch=(p.x, p.y))


def test_wrong_options_name_the_right_ones() -> None:
    net: Any = zoo.problem("tiny").net
    base: Any = gt.curvature.identity(0.1)
    game: Any = gt.gtddp
    wrong = [
        (lambda: game(net, LOSS, base, rollout="exact"), r"'exact'.*'linear', 'nonlinear'"),
        (
            lambda: game(net, LOSS, base, terminal="line"),
            r"gtddp_jax\.terminal.*'line'.*line\(",
        ),
        (
            lambda: game(net, LOSS, base, terminal=gt.terminal.line),
            r"must come from gtddp_jax\.t",
        ),
        (lambda: game(net, LOSS, optax.adam(1e-3)), r"from_optax\(tx\)"),
        (lambda: game(net, LOSS, "adam"), r"must come from gtddp_jax\.curvature, got str"),
        (
            lambda: game(nn.Dense(3), LOSS, base),
            r"must be a gtddp_jax\.Network or made by gtddp_jax\.from_flax, got Dense",
        ),
        (
            lambda: gt.curvature.from_optax(cast(Any, "adam")),
            r"must be an optax\.GradientTransformation",
        ),
        (lambda: gt.curvature.adam(1e-3, mask=cast(Any, {"Dense_0": True})), r"must be a function"),
        (lambda: gt.terminal.line(max_shift=0), r"max_shift=0.*> 0, or None"),
        (lambda: gt.terminal.line(max_shift=-1.0), r"max_shift=-1.0.*> 0, or None"),
    ]
    for build, message in wrong:
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize("rate", [-0.1, "fast", None, float("nan")])
@pytest.mark.parametrize("alias", [gt.sgd, gt.rmsprop, gt.adam, gt.adamw])
def test_a_rate_is_a_number_or_a_schedule(alias: Any, rate: Any) -> None:
    with pytest.raises(ValueError, match=r"give a number >= 0 or an optax schedule"):
        alias(zoo.problem("tiny").net, LOSS, rate)
