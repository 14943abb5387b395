"""Every entry of the table of methods trains."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_jax.sequential import DEFAULT_BOUNDS, ROLLOUTS
from gtddp_lab.data import Dataset, Feed
from gtddp_lab.training.methods import GAMES, OPTIMIZERS, build_method, supports_game
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.trainer import Trainer
from tests.default_run import quick_cases
from tests.lab.training.helpers import records as epoch_records

LOSS = optax.softmax_cross_entropy_with_integer_labels
PAIRS = [
    (optimizer, game)
    for optimizer, entry in OPTIMIZERS.items()
    for game in GAMES
    if supports_game(entry, game)
]


QUICK_PAIRS = [
    ("nesterov", "none"),
    ("nesterov", "sequential"),
    ("schedule_free", "implicit"),
    ("nadam", "implicit"),
    ("kfac", "none"),
]


@pytest.mark.parametrize(("optimizer", "game"), quick_cases(PAIRS, *QUICK_PAIRS))
def test_every_method_learns(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings, optimizer: str, game: str
) -> None:
    trainer = Trainer(build_method(optimizer, game), tiny_net, tiny_feed, settings, batch_size=4)
    records = epoch_records(trainer, seed=0, epochs=12)
    losses = [record.train_loss for record in records]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("terminal", quick_cases(gt.terminal.TERMINALS))
@pytest.mark.parametrize("rollout", quick_cases(ROLLOUTS))
def test_every_terminal_and_rollout_trains(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings, terminal: str, rollout: str
) -> None:
    chosen = replace(settings, terminal=terminal, rollout=rollout)
    trainer = Trainer(build_method("sgd", "sequential"), tiny_net, tiny_feed, chosen, batch_size=4)
    (record,) = epoch_records(trainer, seed=0, epochs=1)
    assert np.isfinite(record.train_loss)
    assert record.report["actual_change_known"] == (rollout == "nonlinear")


@pytest.mark.parametrize(
    "weighting", quick_cases(sorted(set(gt.weighting.WEIGHTINGS) - {"sketch"}))
)  # sketch: above
def test_every_weighting_trains(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings, weighting: str
) -> None:
    chosen = replace(settings, weighting=weighting)
    trainer = Trainer(build_method("sgd", "implicit"), tiny_net, tiny_feed, chosen, batch_size=4)
    (record,) = epoch_records(trainer, seed=0, epochs=1)
    assert np.isfinite(record.train_loss)
    assert record.scalar("sample_weight_min") < 1


def first_step(tx: Any, net: gt.Network, data: Dataset, *, game: bool) -> np.ndarray:
    """The first update of all parameters, for eight training images."""
    x, y = data.train_images[:8], data.train_labels[:8]
    params = net.init(jax.random.key(0), x)

    @jax.jit
    def step(params: Any) -> Any:
        if game:
            return tx.update(None, tx.init(params), params, batch=(x, y))[0]
        gradient = jax.grad(lambda q: LOSS(net.apply(q, x), y).mean())(params)
        return tx.update(gradient, tx.init(params), params)[0]

    return np.asarray(ravel_pytree(step(params))[0])


@pytest.mark.slow
def test_the_shift_may_be_unlimited(
    tiny_net: gt.Network, tiny_dataset: Dataset, settings: TrainSettings
) -> None:
    """An infinite shift is the terminal model without a bound, which a small shift is not."""

    def built(max_shift: float) -> np.ndarray:
        chosen = replace(settings, max_shift=max_shift, rollout="linear")
        tx = build_method("plain_sgd", "sequential").build(tiny_net, LOSS, chosen, 1.0, {})
        return first_step(tx, tiny_net, tiny_dataset, game=True)

    terminal = gt.terminal.ExactLoss(max_shift=None, bounds=DEFAULT_BOUNDS)
    tx = gt.sgd(tiny_net, LOSS, 1.0, rollout="linear", terminal=terminal)
    want = first_step(tx, tiny_net, tiny_dataset, game=True)
    np.testing.assert_allclose(built(float("inf")), want, rtol=1e-6, atol=1e-8)
    assert np.abs(built(1e-3) - want).max() > 1e-3


@pytest.mark.slow
def test_each_game_builds_its_own_optimizer(
    tiny_net: gt.Network, tiny_dataset: Dataset, settings: TrainSettings
) -> None:
    terminal = gt.terminal.ExactLoss(settings.max_shift, DEFAULT_BOUNDS)
    rate, weighting = 0.05, "full"
    chosen = replace(settings, weighting=weighting)
    expected = {
        "none": optax.sgd(rate, momentum=0.9),
        "sequential": gt.sgd(
            tiny_net, LOSS, rate, momentum=0.9, rollout=settings.rollout, terminal=terminal
        ),
        "implicit": gt.implicit(optax.sgd(rate, momentum=0.9), tiny_net, LOSS, weighting=weighting),
    }
    assert set(expected) == set(GAMES)
    steps = {}
    for game, tx in expected.items():
        built = build_method("sgd", game).build(tiny_net, LOSS, chosen, rate, {})
        steps[game] = first_step(tx, tiny_net, tiny_dataset, game=game != "none")
        got = first_step(built, tiny_net, tiny_dataset, game=game != "none")
        np.testing.assert_allclose(got, steps[game], rtol=1e-6, atol=1e-8, err_msg=game)
    names = list(expected)
    for one, other in zip(names, [*names[1:], names[0]], strict=True):
        difference = np.linalg.norm(steps[one] - steps[other]) / np.linalg.norm(steps[one])
        assert difference > 1e-3, (one, other, difference)


def test_names_and_labels() -> None:
    assert build_method("rmsprop", "none").name == "rmsprop"
    assert build_method("rmsprop", "sequential").name == "gtddp-rmsprop"
    assert build_method("rmsprop", "sequential").label == "GT-DDP-RMSprop"
    assert build_method("rmsprop", "implicit").name == "implicit-rmsprop"
    assert build_method("rmsprop", "implicit").label == "Implicit-RMSprop"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"Invalid optimizer: 'x'\. Supported: sgd, nesterov, plain_sgd, rmsprop, adam",
    ):
        build_method("x", "none")
    with pytest.raises(
        ValueError, match=r"Invalid game: 'x'\. Supported: none, sequential, implicit"
    ):
        build_method("adam", "x")
    with pytest.raises(
        ValueError, match=r"The implicit game has no form of ekfac\. Supported: sgd"
    ):
        build_method("ekfac", "implicit")
    with pytest.raises(ValueError, match=r"The sequential game has no form of schedule_free\."):
        build_method("schedule_free", "sequential")


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
            r"Invalid weighting: 'x'\. Supported: sketch, full, exact",
        ),
        ({"terminal": "x"}, r"Invalid terminal: 'x'\. Supported: gradient, projected, exact_loss"),
    ],
)
def test_settings_check_themselves(
    settings: TrainSettings, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)
