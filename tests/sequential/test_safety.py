"""Steps that are not finite are skipped; wrong arguments raise errors that show the fix."""

from typing import Any, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

LOSS = zoo.LOSSES["squared"]


def spoil(x: jax.Array, value: float) -> jax.Array:
    return x.at[(1,) + (0,) * (x.ndim - 1)].set(value)


BAD = {"nan": jnp.nan, "inf": jnp.inf, "-inf": -jnp.inf}
PLACES = ("inputs", "targets", "params")


def spoiled(problem: zoo.Problem, place: str, value: float) -> tuple[Any, Any, Any]:
    x, y, params = problem.x, problem.y, problem.params
    if place == "inputs":
        x = spoil(x, value)
    elif place == "targets":
        y = spoil(y, value)
    else:
        head = problem.net.players[-1]
        own = params[head]
        params = params | {head: own | {"kernel": spoil(own["kernel"], value)}}
    return x, y, params


@pytest.mark.parametrize("feedback", quick_cases([False, True], True))
@pytest.mark.parametrize("rollout", quick_cases(ROLLOUTS))
def test_bad_numbers_are_skipped_and_training_goes_on(rollout: str, feedback: bool) -> None:
    problem = zoo.problem("tiny", batch=4, dtype=jnp.float32)
    tx: Any = gt.adam(
        problem.net,
        LOSS,
        0.05,
        rollout=rollout,
        equilibrium="feedback" if feedback else "open_loop",
    )
    step = jax.jit(lambda state, params, x, y: tx.update(None, state, params, batch=(x, y)))
    _, state = step(tx.init(problem.params), problem.params, problem.x, problem.y)
    want, _ = step(state, problem.params, problem.x, problem.y)
    skipped = 0
    for place in PLACES:
        for value in BAD.values():
            x, y, params = spoiled(problem, place, value)
            updates, after = step(state, params, x, y)
            skipped += 1
            assert after.report.skipped and after.report.skipped_steps == skipped
            assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
            chex.assert_trees_all_equal(after.curvature, state.curvature)
            state = after
    updates, state = step(state, problem.params, problem.x, problem.y)
    assert not state.report.skipped and state.report.skipped_steps == skipped
    chex.assert_trees_all_equal(updates, want)


@pytest.mark.parametrize("terminal", gt.terminal.TERMINALS)
def test_exploding_rate(terminal: str) -> None:
    """The gradients are finite, but the effect of the step on the loss overflows float32."""
    problem = zoo.problem("small", batch=4, dtype=jnp.float32)
    model = gt.terminal.TERMINALS[terminal]()
    tx: Any = gt.sgd(problem.net, LOSS, 1e37, momentum=0.9, terminal=model, rollout="nonlinear")
    state = tx.init(problem.params)
    updates, after = jax.jit(tx.update)(
        None, state, problem.params, batch=(problem.x, 10 * problem.y)
    )
    assert jnp.isfinite(after.report.loss)
    assert after.report.skipped and after.report.skipped_steps == 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    chex.assert_trees_all_equal(after.curvature, state.curvature)


def masked(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
    y, mask = targets
    return mask * LOSS(outputs, y)


@pytest.mark.parametrize("terminal", quick_cases(gt.terminal.TERMINALS))
def test_a_sample_without_gradient_is_neutral(terminal: str) -> None:
    """A masked sample has |g| = 0: weight 1, curvature 0, and no effect on the other samples."""
    problem, mask = zoo.problem("small", batch=3), jnp.array([1.0, 0.0, 1.0])
    model = gt.terminal.TERMINALS[terminal]()
    end = model.expand(
        lambda o: masked(o, (problem.y, mask)), problem.net.apply(problem.params, problem.x)
    )
    assert end.exact_loss.has_gradient.tolist() == [True, False, True]
    assert end.derivative(jnp.array([0.1, 5.0, -0.2]))[1] == 1 and end.curvature[1] == 0

    def scaled(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return 2 / 3 * LOSS(outputs, targets)  # a mean over two samples, not three

    @jax.jit
    def both(params: Any) -> tuple[Any, Any, Any]:
        tx: Any = gt.sgd(problem.net, masked, 0.06, terminal=model)
        updates, state = tx.update(
            None, tx.init(params), params, batch=(problem.x, (problem.y, mask))
        )
        tx = gt.sgd(problem.net, scaled, 0.06, terminal=model)
        rest, _ = tx.update(None, tx.init(params), params, batch=(problem.x[::2], problem.y[::2]))
        return updates, state.report, rest

    got, report, want = both(problem.params)
    assert not report.skipped and report.sample_weight_max - report.sample_weight_min > 0.03
    assert oracle.relative_error(got, want) < 1e-9


@pytest.mark.parametrize(
    "running",
    quick_cases(["nothing", "decay", "gradient", "gradient and decay"], "gradient and decay"),
)
def test_double_counting_is_reported(running: str) -> None:
    problem = zoo.problem("small", batch=4)
    tx: Any = gt.sgd(problem.net, LOSS, 0.01)

    @jax.jit
    def report(params: Any) -> gt.Report:
        grads = jax.grad(lambda q: LOSS(problem.net.apply(q, problem.x), problem.y).mean())(params)
        decay = jax.tree.map(lambda u: 0.01 * u, params)
        updates = {
            "nothing": None,
            "decay": decay,
            "gradient": grads,
            "gradient and decay": jax.tree.map(lambda g, d: g + 1e-3 * d, grads, decay),
        }[running]
        return tx.update(updates, tx.init(params), params, batch=(problem.x, problem.y))[1].report

    assert bool(report(problem.params).double_counted) == running.startswith("gradient")


def test_missing_arguments_show_the_call() -> None:
    problem = zoo.problem("tiny")
    tx: Any = gt.sgd(problem.net, LOSS, 0.1)
    state = tx.init(problem.params)
    call = r"tx\.update\(running_cost_gradient, state, params, batch=\(inputs, targets\)\)"
    with pytest.raises(ValueError, match=rf"missing batch\. Call {call}"):
        tx.update(None, state, problem.params)
    with pytest.raises(ValueError, match=rf"missing params\. Call {call}"):
        tx.update(None, state, batch=(problem.x, problem.y))
    with pytest.raises(ValueError, match=rf"missing params and batch\. Call {call}"):
        tx.update(None, state)
    for batch in (problem.x, (problem.x,), (problem.x, problem.y, problem.y), {"x": problem.x}):
        with pytest.raises(ValueError, match=rf"must be a pair \(inputs, targets\), got .*{call}"):
            tx.update(None, state, problem.params, batch=batch)


LOSSES = {
    "mean": lambda outputs, y: LOSS(outputs, y).mean(),
    "each output": lambda outputs, y: jnp.square(outputs - y),
    "kept axis": lambda outputs, y: LOSS(outputs, y)[:, None],
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_returns_one_number_per_sample(name: str) -> None:
    problem = zoo.problem("tiny")
    tx: Any = gt.sgd(problem.net, LOSSES[name], 0.1)
    with pytest.raises(ValueError, match=r"must return one loss per sample, shape \(2,\)"):
        tx.update(None, tx.init(problem.params), problem.params, batch=(problem.x, problem.y))


def test_wrong_options_name_the_right_ones() -> None:
    net: Any = zoo.problem("tiny").net
    base: Any = gt.curvature.SGD(0.1)
    game: Any = gt.gtddp
    wrong = [
        (lambda: game(net, LOSS, base, rollout="exact"), r"'exact'.*'linear', 'nonlinear'"),
        (
            lambda: game(net, LOSS, base, terminal="exact_loss"),
            r"gtddp_jax\.terminal, got 'exact_loss'.*ExactLoss\(",
        ),
        (
            lambda: game(net, LOSS, base, terminal=gt.terminal.ExactLoss),
            r"must come from gtddp_jax\.t",
        ),
        (lambda: game(net, LOSS, optax.adam(1e-3)), r"FromOptax\(tx\)"),
        (lambda: game(net, LOSS, "adam"), r"must come from gtddp_jax\.curvature, got str"),
        (
            lambda: game(nn.Dense(3), LOSS, base),
            r"must be a gtddp_jax\.Network or the result of gtddp_jax\.from_flax, got Dense",
        ),
        (
            lambda: gt.curvature.FromOptax(cast(Any, "adam")),
            r"must be an optax\.GradientTransformation",
        ),
        (
            lambda: gt.curvature.Adam(1e-3, mask=cast(Any, {"Dense_0": True})),
            r"the mask must be a function",
        ),
        (lambda: gt.terminal.ExactLoss(max_shift=0), r"max_shift=0.*> 0, or None"),
        (lambda: gt.terminal.ExactLoss(max_shift=-1.0), r"max_shift=-1.0.*> 0, or None"),
    ]
    for build, message in wrong:
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize("rate", [-0.1, "fast", None, float("nan")])
@pytest.mark.parametrize("alias", [gt.sgd, gt.rmsprop, gt.adam, gt.adamw])
def test_a_rate_is_a_number_or_a_schedule(alias: Any, rate: Any) -> None:
    with pytest.raises(ValueError, match=r"give a number >= 0 or an optax schedule"):
        alias(zoo.problem("tiny").net, LOSS, rate)
