"""Gradient accumulation and frozen parameters: supported compositions, errors for others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

LOSS = zoo.LOSSES["softmax"]
# optax does not annotate that None keeps the dtype of the gradients.
MULTI_STEPS: Any = optax.MultiSteps


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
    with pytest.raises(ValueError, match=r"last mini-batch only"):
        outer.init(problem.params)
    accumulating = optax.MultiSteps(optax.identity(), 2).init(problem.params)
    state = accumulating._replace(inner_opt_state=(tx.init(problem.params), optax.EmptyState()))
    zeros = jax.tree.map(jnp.zeros_like, problem.params)
    update = jax.jit(outer.update) if jitted else outer.update
    with pytest.raises(ValueError, match=r"last mini-batch only.*FromOptax\(optax\.MultiSteps"):
        update(zeros, state, problem.params, batch=(problem.x, problem.y))


@pytest.mark.parametrize("feedback", quick_cases([False, True]))
def test_multi_steps_inside_accumulates(problem: zoo.Problem, feedback: bool) -> None:
    """Every mini-batch is weighted as if the base took its step; the base averages them."""
    adam = optax.adam(0.05)
    first, second = (problem.x, problem.y), (0.5 * problem.x, -problem.y)

    def game(base: Any) -> Any:
        return gt.gtddp(
            problem.net,
            LOSS,
            gt.curvature.FromOptax(base),
            equilibrium="feedback" if feedback else "open_loop",
        )

    @jax.jit
    def run(params: Any) -> Any:
        accumulating, plain = game(MULTI_STEPS(adam, 2, accumulator_dtype=None)), game(adam)
        start = accumulating.init(params)
        still, state = accumulating.update(None, start, params, batch=first)
        got, state = accumulating.update(None, state, params, batch=second)
        gradients, weights = [], []
        for batch in (first, second):
            seen: list[Any] = []
            plain.update(None, plain.init(params), params, batch=batch, observe=seen.append)
            weights.append(seen[0])
            gradients.append(weighted_gradient(problem, params, batch, seen[0]))
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
        return still, got, adam.update(mean, adam.init(params), params)[0], weights

    still, got, want, weights = run(problem.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(still))
    assert oracle.relative_error(got, want) < 1e-9
    spread = min(float(np.ptp(each)) for each in weights)
    assert spread > 0.05 if feedback else spread == 0


def weighted_gradient(problem: zoo.Problem, params: Any, batch: Any, weights: jax.Array) -> Any:
    """The gradient of each player's stage with that stage's weights [stages, B]."""
    found = {}
    for stage, row in zip(problem.net.stages, weights, strict=True):

        def mean_loss(q: Any, row: jax.Array = row) -> jax.Array:
            return (row * LOSS(problem.net.apply(q, batch[0]), batch[1])).mean()

        gradient = jax.grad(mean_loss)(params)
        found |= {name: gradient[name] for name in stage.players}
    return found


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


def test_freezing_comes_inside(problem: zoo.Problem) -> None:
    """A frozen layer does not move, and the others respond to moves that happen only."""

    def game(*rest: Any) -> Any:
        curvature = gt.curvature.FromOptax(optax.chain(optax.sgd(0.1), *rest))
        return gt.gtddp(problem.net, LOSS, curvature)

    tx = game(optax.masked(optax.set_to_zero(), frozen))
    updates, _ = jax.jit(tx.update)(
        None, tx.init(problem.params), problem.params, batch=(problem.x, problem.y)
    )
    for name, still in frozen(problem.params).items():
        assert all(still != bool(leaf.any()) for leaf in jax.tree.leaves(updates[name]))
