"""The recipes for Flax's own training classes."""

import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gtddp_jax as gt
from examples import recipes_nnx, recipes_trainstate
from tests.implicit import models

STEPS = 3


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(6, 4)), rng.integers(0, 3, 6)) for _ in range(STEPS)]


def assert_close(got: Any, want: Any) -> None:
    # Flax creates float32 parameters.
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def mean_loss(model: Any, x: Any, y: Any) -> jax.Array:
    return models.cross_entropy(model(x), y).mean()


def numbers(model: nnx.Module) -> Any:
    """Everything in a model except its keys."""
    return nnx.as_pure(nnx.state(model, nnx.Not(nnx.RngKey)))


@pytest.mark.slow
def test_nnx_without_the_game_is_plain_training(float32: None) -> None:
    """Compares parameters, batch statistics and the count of dropout keys."""
    # Adam would enlarge the rounding errors that are the gradient of a bias before a normalization.
    base = optax.sgd(0.1, 0.9)
    model: Any = recipes_nnx.Net(nnx.Rngs(0))
    plain = recipes_nnx.Net(nnx.Rngs(0))
    game = gt.implicit(base, strength=0.0)
    optimizer = nnx.Optimizer(model, game, wrt=nnx.Param)
    plain_optimizer = nnx.Optimizer(plain, base, wrt=nnx.Param)

    @nnx.jit
    def plain_step(model: Any, optimizer: Any, x: Any, y: Any) -> jax.Array:
        loss, gradient = nnx.value_and_grad(mean_loss)(model, x, y)
        optimizer.update(model, gradient)
        return loss

    for x, y in batches():
        loss, _ = recipes_nnx.train_step(model, optimizer, x, y)
        assert_close(loss, plain_step(plain, plain_optimizer, x, y))
    assert_close(numbers(model), numbers(plain))
    assert optimizer.step[...] == STEPS and model.dropout.rngs.count[...] == STEPS


def test_train_state_without_the_game_is_plain_training(float32: None) -> None:
    module = nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(3)])
    params = module.init(jax.random.key(0), batches()[0][0])["params"]
    base = optax.adam(0.01)
    plain = TrainState.create(apply_fn=module.apply, params=params, tx=base)
    state = TrainState.create(
        apply_fn=module.apply, params=params, tx=gt.implicit(base, strength=0.0)
    )

    @jax.jit
    def plain_step(state: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return mean_loss(lambda x: module.apply({"params": params}, x), x, y)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for x, y in batches():
        state, _, accuracy = recipes_trainstate.train_step(state, x, y)
        logits: Any = module.apply({"params": plain.params}, x)
        assert accuracy == np.float32((logits.argmax(-1) == y).mean())
        plain = plain_step(plain, x, y)
    assert_close(state.params, plain.params)
    assert state.step == STEPS

    with pytest.raises(ValueError, match=r"update was called without losses"):
        state.apply_gradients(grads=params)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [recipes_nnx, recipes_trainstate])
def test_recipes_learn(recipe: Any, float32: None, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.main()
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 5 and losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_game_moves_the_weights(float32: None) -> None:
    model = recipes_nnx.Net(nnx.Rngs(0))
    game = gt.implicit(optax.adam(0.1), weighting="full")
    optimizer = nnx.Optimizer(model, game, wrt=nnx.Param)
    for x, y in batches():
        recipes_nnx.train_step(model, optimizer, x, y)
    report = nnx.as_pure(optimizer.opt_state).report
    assert report.sample_weight_max - report.sample_weight_min > 0.01 and not report.skipped
