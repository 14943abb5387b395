"""Gradient accumulation and frozen parameters: supported compositions, errors for others."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.sequential import oracle, zoo

LOSS = zoo.LOSSES["softmax"]
jit = functools.partial(jax.jit, compiler_options=oracle.FAST)


def labels(params: Any) -> Any:
    return {name: "frozen" if name == "Dense_0" else "free" for name in params}


def frozen(params: Any) -> Any:
    return {name: label == "frozen" for name, label in labels(params).items()}


def free(params: Any) -> Any:
    return {name: label == "free" for name, label in labels(params).items()}


@pytest.fixture
def problem() -> zoo.Problem:
    return zoo.problem("tiny", batch=4)


@pytest.fixture
def tx(problem: zoo.Problem) -> optax.GradientTransformationExtraArgs:
    return gt.sgd(problem.net, LOSS, 0.1)


@pytest.mark.parametrize("jitted", [False, True])
def test_multi_steps_outside_is_refused(problem: zoo.Problem, tx: Any, jitted: bool) -> None:
    outer = optax.MultiSteps(optax.chain(tx, optax.scale(0.5)), 2)
    state = outer.init(problem.params)
    zeros = jax.tree.map(jnp.zeros_like, problem.params)
    update = jax.jit(outer.update) if jitted else outer.update
    with pytest.raises(ValueError, match=r"last mini-batch only.*FromOptax\(optax\.MultiSteps"):
        update(zeros, state, problem.params, batch=(problem.x, problem.y))


@pytest.mark.parametrize("feedback", [False, True])
def test_multi_steps_inside_accumulates(problem: zoo.Problem, feedback: bool) -> None:
    """The first mini-batch changes nothing, so its weights are 1; the second one has feedback.

    Its step is that of a base method that averages its gradient with the first one.
    """
    adam = optax.adam(0.05)
    first, second = (problem.x, problem.y), (0.5 * problem.x, -problem.y)

    def game(base: Any) -> Any:
        return gt.gtddp(problem.net, LOSS, gt.curvature.FromOptax(base), feedback=feedback)

    @jit
    def run(params: Any) -> Any:
        early = jax.grad(lambda q: LOSS(problem.net.apply(q, first[0]), first[1]).mean())(params)

        def averaged(q: Any, own: Any) -> Any:
            mean = jax.tree.map(lambda a, b: (a + b) / 2, {name: early[name] for name in q}, q)
            return adam.update(mean, adam.init(own), own)[0]

        accumulating = game(optax.MultiSteps(adam, 2))
        still, state = accumulating.update(None, accumulating.init(params), params, batch=first)
        got, state = accumulating.update(None, state, params, batch=second)
        base = optax.stateless(averaged)
        want, after = game(base).update(None, game(base).init(params), params, batch=second)
        return still, got, want, (state.report, after.report)

    still, got, want, reports = run(problem.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(still))
    assert oracle.relative_error(got, want) < 1e-9
    spread = reports[0].sample_weight_max - reports[0].sample_weight_min
    assert spread == reports[1].sample_weight_max - reports[1].sample_weight_min
    assert spread > 0.05 if feedback else spread == 0


@pytest.mark.parametrize("wrap", ["masked", "multi_transform"])
@pytest.mark.parametrize("when", ["init", "update"])
def test_hidden_parameters_are_refused(problem: zoo.Problem, tx: Any, wrap: str, when: str) -> None:
    outer = {
        "masked": optax.masked(tx, free),
        "multi_transform": optax.multi_transform(
            {"free": tx, "frozen": optax.set_to_zero()}, labels
        ),
    }[wrap]
    with pytest.raises(ValueError, match=r"some are hidden by optax\.masked.*set_to_zero\(\)"):
        if when == "init":
            outer.init(problem.params)
        else:
            hidden = problem.params | {"Dense_0": optax.MaskedNode()}
            tx.update(None, tx.init(problem.params), hidden, batch=(problem.x, problem.y))


def test_freezing_comes_after(problem: zoo.Problem, tx: Any) -> None:
    chain: Any = optax.chain(tx, optax.masked(optax.set_to_zero(), frozen))

    @jit
    def both(params: Any) -> tuple[Any, Any]:
        return (
            chain.update(None, chain.init(params), params, batch=(problem.x, problem.y))[0],
            tx.update(None, tx.init(params), params, batch=(problem.x, problem.y))[0],
        )

    got, want = both(problem.params)
    for name, still in frozen(problem.params).items():
        for a, b in zip(jax.tree.leaves(got[name]), jax.tree.leaves(want[name]), strict=True):
            np.testing.assert_array_equal(a, jnp.zeros_like(b) if still else b)
            assert b.any()
