"""The table of methods: every entry trains."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.training.data import Feed
from gtddp_jax.training.methods import (
    GAMES,
    OPTIMIZERS,
    method,
)
from gtddp_jax.training.settings import ROLLOUTS, TERMINALS, Settings
from gtddp_jax.training.trainer import Trainer
from tests.training.helpers import records as epoch_records

PAIRS = [
    (optimizer, game)
    for optimizer, entry in OPTIMIZERS.items()
    for game in GAMES
    if entry.plain is not None or game != "implicit"
]


@pytest.mark.parametrize(("optimizer", "game"), PAIRS)
def test_every_method_learns(
    tiny_net: gt.Network, tiny_feed: Feed, settings: Settings, optimizer: str, game: str
) -> None:
    trainer = Trainer(method(optimizer, game), tiny_net, tiny_feed, settings, batch_size=4)
    records = epoch_records(trainer, seed=0, epochs=12)
    losses = [record.train_loss for record in records]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_every_setting_of_the_game_is_taken(
    tiny_net: gt.Network, tiny_feed: Feed, settings: Settings, terminal: str, rollout: str
) -> None:
    chosen = replace(settings, terminal=terminal, rollout=rollout)
    trainer = Trainer(method("sgd", "sequential"), tiny_net, tiny_feed, chosen, batch_size=4)
    (record,) = epoch_records(trainer, seed=0, epochs=1)
    assert np.isfinite(record.train_loss)
    assert record.report["actual_change_known"] == (rollout == "nonlinear")


@pytest.mark.parametrize("weights", sorted(set(gt.weights.WEIGHTS) - {"tail"}))  # tail: above
def test_every_weight_model_is_taken(
    tiny_net: gt.Network, tiny_feed: Feed, settings: Settings, weights: str
) -> None:
    chosen = replace(settings, weights=weights)
    trainer = Trainer(method("sgd", "implicit"), tiny_net, tiny_feed, chosen, batch_size=4)
    (record,) = epoch_records(trainer, seed=0, epochs=1)
    assert np.isfinite(record.train_loss)
    assert record.report["weight_min"] < 1
    assert 0 <= record.report["trust"] <= 1


def test_the_shift_may_be_unlimited(
    tiny_net: gt.Network, tiny_feed: Feed, settings: Settings
) -> None:
    chosen = replace(settings, max_shift=float("inf"))
    trainer = Trainer(method("sgd", "sequential"), tiny_net, tiny_feed, chosen, batch_size=4)
    (record,) = epoch_records(trainer, seed=0, epochs=1)
    assert record.report["skipped_steps"] == 0


def test_a_game_differs_from_its_base(
    tiny_net: gt.Network, tiny_feed: Feed, settings: Settings
) -> None:
    base, game = (
        Trainer(method("adam", name), tiny_net, tiny_feed, settings, batch_size=4)
        for name in ("none", "sequential")
    )
    (plain,), (feedback,) = (
        epoch_records(base, seed=0, epochs=1),
        epoch_records(game, seed=0, epochs=1),
    )
    assert plain.train_loss != feedback.train_loss
    np.testing.assert_allclose(plain.train_loss, feedback.train_loss, rtol=0.2)


def test_names_and_labels() -> None:
    assert method("rmsprop", "none").name == "rmsprop"
    assert method("rmsprop", "sequential").name == "gtddp-rmsprop"
    assert method("rmsprop", "sequential").label == "GT-DDP-RMSprop"
    assert method("rmsprop", "implicit").name == "implicit-rmsprop"
    assert method("rmsprop", "implicit").label == "Implicit-RMSprop"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"Invalid optimizer: 'x'\. Supported: sgd, plain_sgd, rmsprop, adam, kfac"
    ):
        method("x", "none")
    with pytest.raises(
        ValueError, match=r"Invalid game: 'x'\. Supported: none, sequential, implicit"
    ):
        method("adam", "x")
    with pytest.raises(ValueError, match="needs an optax optimizer, which ekfac is not"):
        method("ekfac", "implicit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"max_shift": 0.0}, "max_shift must be positive"),
        ({"rollout": "x"}, r"Invalid rollout: 'x'\. Supported: linear, nonlinear"),
        (
            {"weights": "x"},
            r"Invalid weights: 'x'\. Supported: tail, product, trial, newton",
        ),
        ({"terminal": "x"}, r"Invalid terminal: 'x'\. Supported: line, projected, gradient"),
    ],
)
def test_settings_check_themselves(
    settings: Settings, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)
