"""Every entry of the table of methods trains."""

from dataclasses import replace
from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential import ROLLOUTS
from gtddp_lab.data import Feed
from gtddp_lab.training.methods import GAMES, OPTIMIZERS, build_method
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.trainer import SAMPLE_LOSS, Trainer
from tests.lab.training.helpers import records as epoch_records

PAIRS = [
    (optimizer, game)
    for optimizer, entry in OPTIMIZERS.items()
    for game in GAMES
    if entry.build_base is not None or game != "implicit"
]


@pytest.mark.parametrize(("optimizer", "game"), PAIRS)
def test_every_method_learns(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings, optimizer: str, game: str
) -> None:
    trainer = Trainer(build_method(optimizer, game), tiny_net, tiny_feed, settings, batch_size=4)
    records = epoch_records(trainer, seed=0, epochs=12)
    losses = [record.train_loss for record in records]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("terminal", gt.terminal.TERMINALS)
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_every_terminal_and_rollout_trains(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings, terminal: str, rollout: str
) -> None:
    chosen = replace(settings, terminal=terminal, rollout=rollout)
    trainer = Trainer(build_method("sgd", "sequential"), tiny_net, tiny_feed, chosen, batch_size=4)
    (record,) = epoch_records(trainer, seed=0, epochs=1)
    assert np.isfinite(record.train_loss)
    assert record.report["actual_change_known"] == (rollout == "nonlinear")


@pytest.mark.parametrize(
    "weighting", sorted(set(gt.weighting.WEIGHTINGS) - {"tail"})
)  # tail: above
def test_every_weighting_trains(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings, weighting: str
) -> None:
    chosen = replace(settings, weighting=weighting)
    trainer = Trainer(build_method("sgd", "implicit"), tiny_net, tiny_feed, chosen, batch_size=4)
    (record,) = epoch_records(trainer, seed=0, epochs=1)
    assert np.isfinite(record.train_loss)
    assert record.scalar("sample_weight_min") < 1
    assert 0 <= record.scalar("trust") <= 1


def test_the_shift_is_bounded_as_requested(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings
) -> None:
    """One step at a high rate, where a bound matters; ``inf`` is the model without a bound."""
    images, labels = tiny_feed.train.images[:4], tiny_feed.train.labels[:4]
    kernels = []
    for max_shift, bound in ((0.01, 0.01), (float("inf"), None)):
        chosen = replace(settings, learning_rate=1.0, max_shift=max_shift)
        method = build_method("sgd", "sequential")
        trainer = Trainer(method, tiny_net, tiny_feed, chosen, batch_size=4)
        start = trainer.start((0,))
        terminal = gt.terminal.ExactLoss(max_shift=bound, bounds=(0.02, 10.0))
        tx: Any = gt.sgd(tiny_net, SAMPLE_LOSS, 1.0, momentum=0.9, terminal=terminal)
        update = jax.jit(
            lambda params, tx=tx: tx.update(None, tx.init(params), params, batch=(images, labels))[
                0
            ]
        )
        expected: Any = optax.apply_updates(start.params, update(start.params))
        found = trainer.train(start, np.arange(4, dtype=np.int32)[None]).params
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
        kernels.append(np.asarray(expected["Dense_0"]["kernel"]))
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_names_and_labels() -> None:
    assert build_method("rmsprop", "none").name == "rmsprop"
    assert build_method("rmsprop", "sequential").name == "gtddp-rmsprop"
    assert build_method("rmsprop", "sequential").label == "GT-DDP-RMSprop"
    assert build_method("rmsprop", "implicit").name == "implicit-rmsprop"
    assert build_method("rmsprop", "implicit").label == "Implicit-RMSprop"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"Invalid optimizer: 'x'\. Supported: sgd, plain_sgd, rmsprop, adam, kfac"
    ):
        build_method("x", "none")
    with pytest.raises(
        ValueError, match=r"Invalid game: 'x'\. Supported: none, sequential, implicit"
    ):
        build_method("adam", "x")
    with pytest.raises(ValueError, match="needs an optax optimizer, which ekfac is not"):
        build_method("ekfac", "implicit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be a number from"),
        (
            {"learning_rate": float("nan")},
            "learning_rate must be a number from",
        ),
        (
            {"max_shift": 0.0},
            "max_shift must be a number from",
        ),
        ({"rollout": "x"}, r"Invalid rollout: 'x'\. Supported: linear, nonlinear"),
        (
            {"weighting": "x"},
            r"Invalid weighting: 'x'\. Supported: tail, product, newton",
        ),
        ({"terminal": "x"}, r"Invalid terminal: 'x'\. Supported: gradient, projected, exact_loss"),
    ],
)
def test_settings_check_themselves(
    settings: TrainSettings, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)
