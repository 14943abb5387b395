"""Chains: no regularizer is lost, and nothing changes a step after the game has predicted it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core import call_context
from tests.implicit import dense, models
from tests.robustness.composition.games import (
    FROZEN,
    GAMES,
    Game,
    batch,
    try_update,
    zeros,
)

each_game = pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
SGD = optax.sgd(0.1, momentum=0.9)
DECAY = optax.add_decayed_weights(0.1)


def always(step: Any, *_: Any, **__: Any) -> Any:
    """Every step is taken."""
    del step
    return True


INJECTED = optax.inject_hyperparams(lambda rate, tx: optax.chain(DECAY, tx), static_args=("tx",))

AFTER_SOMETHING: dict[str, Callable[[Any], Any]] = {
    "chain": lambda tx: optax.chain(DECAY, tx),
    "third": lambda tx: optax.chain(optax.identity(), DECAY, tx),
    "outer chain": lambda tx: optax.chain(DECAY, optax.chain(tx)),
    "named chain": lambda tx: optax.named_chain(("decay", DECAY), ("game", tx)),
    "with_extra_args_support": lambda tx: optax.with_extra_args_support(optax.chain(DECAY, tx)),
    "inject_hyperparams": lambda tx: INJECTED(rate=0.1, tx=tx),
    "apply_if_finite": lambda tx: optax.apply_if_finite(optax.chain(DECAY, tx), 3),
    "apply_if_finite alone": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, always),
}


@each_game
@pytest.mark.parametrize("wrapper", AFTER_SOMETHING)
def test_none_never_loses_a_regularizer(game: Game, wrapper: str) -> None:
    tx, params = AFTER_SOMETHING[wrapper](game.build(SGD)), game.params()
    with pytest.raises(ValueError, match=r"updates is None inside optax\..*tree\.map\(jnp\.zeros"):
        try_update(tx, params)
    try_update(tx, params, zeros(params))


@each_game
@pytest.mark.parametrize(
    "wrap",
    [optax.chain, lambda tx: optax.chain(optax.chain(tx)), lambda tx: optax.named_chain(("a", tx))],
)
def test_none_is_fine_where_nothing_comes_before(game: Game, wrap: Any) -> None:
    try_update(wrap(game.build(SGD)), game.params())


def test_none_at_an_unknown_position_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a version of optax whose chain has other variables."""
    monkeypatch.setattr(call_context, "_chain_position", lambda *_: (None, None))
    game = GAMES[0]
    with pytest.raises(ValueError, match="updates is None"):
        try_update(optax.chain(game.build(SGD)), game.params())
    try_update(optax.chain(game.build(SGD), FROZEN), game.params(), zeros(game.params()))


CHANGED: dict[str, Callable[[Any], Any]] = {
    "mask": lambda tx: optax.chain(tx, FROZEN),
    "scale": lambda tx: optax.chain(optax.identity(), tx, optax.scale(0.5)),
    "outer chain": lambda tx: optax.chain(optax.chain(tx), optax.scale(0.5)),
    "named chain": lambda tx: optax.named_chain(("game", tx), ("scale", optax.scale(0.5))),
    "apply_if_finite": lambda tx: optax.chain(optax.apply_if_finite(tx, 2), optax.scale(0.5)),
}


@each_game
@pytest.mark.parametrize("wrapper", CHANGED)
def test_what_stands_after_a_prediction_is_refused(game: Game, wrapper: str) -> None:
    params = game.params()
    with pytest.raises(ValueError, match=r"stands after it.*chain\(base, the rest\)"):
        try_update(CHANGED[wrapper](game.build(SGD)), params, zeros(params))


@each_game
@pytest.mark.parametrize("wrapper", CHANGED)
def test_without_predictions_anything_may_follow(game: Game, wrapper: str) -> None:
    params = game.params()
    off: dict[str, Any] = (
        {"strength": 0.0} if game.name == "implicit" else {"equilibrium": "open_loop"}
    )
    try_update(CHANGED[wrapper](game.build(SGD, **off)), params, zeros(params))


OUTSIDE: dict[str, Callable[[Any], Any]] = {
    "lookahead": lambda tx: optax.lookahead(tx, 5, 0.5),
    "sam": lambda tx: optax.contrib.sam(tx, SGD),
    "mechanize": optax.contrib.mechanize,
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "flatten": optax.flatten,
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary,
}


@each_game
@pytest.mark.parametrize("wrapper", OUTSIDE)
def test_wrappers_that_change_the_step_are_refused(game: Game, wrapper: str) -> None:
    message = rf"{game.name} inside optax's {wrapper} is not supported.*\({wrapper}\(base"
    with pytest.raises(ValueError, match=message):
        OUTSIDE[wrapper](game.build(SGD)).init(game.params())


def test_weights_of_frozen_parameters_equal_the_dense_ones() -> None:
    """With the mask inside, the base says that frozen layers do not move."""
    p = models.classification()
    base: Any = optax.chain(SGD, FROZEN)
    params, base_state = jax.jit(lambda u: (u, base.init(u)))(p.params)
    warm = jax.tree.map(lambda leaf: leaf + 0.3 if leaf.ndim else leaf, base_state)
    game = (base, p.apply_fn, p.loss)
    options: Any = {"weighting": gt.weighting.Full(factors="implicit")}
    state = models.implicit(*game, **options).init(params)._replace(base=warm)
    got = models.implicit_weights(*game, **options)(state, params, batch())
    losses = dense.Losses(p)
    influence = dense.influence(losses, dense.Base(base, warm, params))
    want = losses.scalar_weights(*influence, bounds=(0.0, 10.0))
    np.testing.assert_allclose(got, want, rtol=1e-9)
    unmasked = dense.influence(losses, dense.Base(SGD, warm[0], params))
    assert np.abs(losses.scalar_weights(*unmasked) - want).max() > 1e-2


def test_a_frozen_layer_of_the_sequential_game_moves_no_loss() -> None:
    """The other stage responds to moves that happen only."""
    game, (x, y) = GAMES[1], batch()
    params = game.params()
    seen: list[jax.Array] = []
    tx = game.build(optax.chain(SGD, FROZEN))
    updates, _ = tx.update(None, tx.init(params), params, batch=(x, y), observe=seen.append)
    assert not jnp.any(updates["Dense_0"]["kernel"]) and jnp.any(updates["Dense_1"]["kernel"])
    # Nothing moves before the last stage, and nothing after it.
    np.testing.assert_allclose(seen[0][1], 1.0, rtol=1e-12)
    plain = game.build(SGD)
    plain.update(None, plain.init(params), params, batch=(x, y), observe=seen.append)
    assert np.abs(seen[1][1] - 1).max() > 1e-3


def test_zeros_and_none_agree_with_the_regularizer_by_hand() -> None:
    """A chain of a regularizer and a game is the game with that running cost."""
    game = GAMES[0]
    params, tx = game.params(), game.build(SGD)
    chain = optax.chain(DECAY, tx)
    got, _ = chain.update(zeros(params), chain.init(params), params, batch=batch())
    running = jax.tree.map(lambda u: 0.1 * u, params)
    want, _ = tx.update(running, tx.init(params), params, batch=batch())
    jax.tree.map(np.testing.assert_array_equal, got, want)
    step = gt.make_update(chain)
    after, _ = step(params, chain.init(params), batch())
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-9), after, params, want
    )
