"""Accumulated gradients: every mini-batch is weighted as if the base took its step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.implicit import dense, models
from tests.robustness.composition.games import GAMES, Game, batch, try_update

each_game = pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
ADAM = optax.adam(0.1)


def run(tx: Any, params: Any, batches: list[Any]) -> tuple[Any, Any, list[Any]]:
    """The parameters and state after one step per batch, and the weights of each step."""

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        seen: list[Any] = []
        updates, state = tx.update(None, state, params, batch=batch, observe=seen.append)
        return optax.apply_updates(params, updates), state, seen[0]

    state, weights = tx.init(params), []
    for each in batches:
        params, state, w = step(params, state, each)
        weights.append(w)
    return params, state, weights


@each_game
@pytest.mark.parametrize("mean", [True, False])
def test_equal_mini_batches_are_one_step_of_the_base(game: Game, mean: bool) -> None:
    """Three times one batch: its weights are those of one step on it (on three times its sum)."""
    params = game.params()
    accumulated = optax.MultiSteps(ADAM, 3, use_grad_mean=mean, accumulator_dtype=jnp.float64)
    got, state, weights = run(game.build(accumulated), params, 3 * [batch()])
    base = ADAM if mean else optax.chain(optax.scale(3.0), ADAM)
    want, _, once = run(game.build(base), params, [batch()])
    for w in weights:
        np.testing.assert_allclose(w, once[0], rtol=1e-9)
    assert np.ptp(once[0]) > 1e-3 and not state.report.skipped
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), got, want)


@each_game
def test_one_mini_batch_is_no_accumulation(game: Game) -> None:
    params, batches = game.params(), [batch(0), batch(1)]
    accumulated = optax.MultiSteps(ADAM, 1, accumulator_dtype=jnp.float64)
    got, _, weights = run(game.build(accumulated), params, batches)
    want, _, plain = run(game.build(ADAM), params, batches)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), (got, weights), (want, plain)
    )


def test_each_mini_batch_has_its_own_dense_weights() -> None:
    """The base takes the mean of gradients that were weighted one by one."""
    params, batches = models.mlp_params(), [batch(0), batch(1)]
    accumulated = optax.MultiSteps(ADAM, 2, accumulator_dtype=jnp.float64)
    got, _, weights = run(GAMES[0].build(accumulated), params, batches)
    u = dense.Base(ADAM, ADAM.init(params), params)
    gradients = []
    for each, w in zip(batches, weights, strict=True):
        losses = dense.Losses(dense.Problem(models.mlp, models.cross_entropy, params, *each))
        want = losses.scalar_weights(*dense.influence(losses, u), bounds=(0.0, 10.0))
        np.testing.assert_allclose(w[0], want, rtol=1e-9)
        gradients.append(losses.mean_gradient(want))
    mean = u(np.mean(gradients, axis=0))
    step = dense.ravel_pytree(params)[1](jnp.asarray(mean))
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-9), got, params, step)


HIDDEN: dict[str, Callable[[], Any]] = {
    "gradient_transformation": lambda: optax.MultiSteps(ADAM, 2).gradient_transformation(),
    "chain": lambda: optax.chain(optax.MultiSteps(ADAM, 2).gradient_transformation()),
    "nested": lambda: optax.MultiSteps(optax.MultiSteps(ADAM, 2).gradient_transformation(), 2),
    "apply_every": lambda: optax.chain(ADAM, optax.apply_every(2)),
    "partition": lambda: optax.partition(
        {"a": optax.MultiSteps(ADAM, 2).gradient_transformation()},
        lambda params: jax.tree.map(lambda _: "a", params),
    ),
}


@each_game
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_accumulation_is_refused(game: Game, name: str) -> None:
    tx = game.build(HIDDEN[name]())
    with pytest.raises(ValueError, match=r"accumulates gradients.*MultiSteps\(optax\.adam"):
        try_update(tx, game.params())


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["none", "decay"])
@pytest.mark.parametrize("base", [ADAM, optax.polyak_sgd(10.0)], ids=["adam", "polyak"])
def test_the_weights_function_takes_what_update_takes(updates: str, base: Any) -> None:
    params = models.mlp_params()
    running = None if updates == "none" else jax.tree.map(lambda u: 0.5 * u, params)
    options: Any = (base, models.mlp, models.cross_entropy)
    tx = models.implicit(*options, weighting="full")
    look = models.implicit_weights(*options, weighting="full")
    seen: list[Any] = []
    tx.update(running, tx.init(params), params, batch=batch(), value=2.0, observe=seen.append)
    got = look(tx.init(params), params, batch(), running, value=2.0)
    np.testing.assert_allclose(got, seen[0][0], rtol=1e-12)
    other = look(tx.init(params), params, batch(), None, value=1.0)
    is_same = updates == "none" and base is ADAM
    assert is_same == np.allclose(other, got, rtol=1e-6)
