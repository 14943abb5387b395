"""The state of a trainer does not depend on how its steps are dispatched."""

import itertools
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_lab.data import Dataset, Feed
from gtddp_lab.data.pydoc_topics import text_samples
from gtddp_lab.networks import build_network, flatten
from gtddp_lab.training.methods import GAMES, build_method
from gtddp_lab.training.records import TrainProgress
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.state import RunState, step_key
from gtddp_lab.training.trainer import Trainer, cross_entropy, initial_variables
from tests.lab.training.helpers import records

STEPS = 3


def stepped(trainer: Trainer, seeds: tuple[int, ...] = (0,), steps: int = STEPS) -> RunState:
    return trainer.train(trainer.start(seeds), trainer.rows(seeds, 0, steps))


def close(left: Any, right: Any, rtol: float = 1e-5) -> None:
    chex.assert_trees_all_close(left, right, rtol=rtol, atol=1e-6)


@pytest.fixture(scope="module")
def base(tiny_net: gt.Network, tiny_feed: Feed) -> Trainer:
    return Trainer(
        build_method("adam", "none"), tiny_net, tiny_feed, TrainSettings(0.01), batch_size=4
    )


def by_optax(tx: Any, net: gt.Network, feed: Feed) -> Any:
    """Parameters after training on the same batches with optax alone."""
    params = initial_variables(net, feed, 0)["params"]
    state = tx.init(params)
    trainer = Trainer(build_method("sgd", "none"), net, feed, TrainSettings(0.01), batch_size=4)
    for row in trainer.rows((0,), 0, STEPS):
        images, labels = feed.train.images[row], feed.train.labels[row]

        def mean_loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
            outputs: Any = net.apply(params, images)
            return cross_entropy(outputs, labels).mean()

        gradient = jax.grad(mean_loss)(params, images, labels)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.slow
def test_weight_decay_and_schedule_equal_optax(tiny_net: gt.Network, tiny_feed: Feed) -> None:
    settings = TrainSettings(0.01, schedule="cosine", weight_decay=0.1)
    trainer = Trainer(
        build_method("adam", "none"), tiny_net, tiny_feed, settings, batch_size=4, epochs=2
    )
    tx = optax.chain(
        optax.add_decayed_weights(0.1), optax.adam(optax.cosine_decay_schedule(0.01, 18))
    )
    close(stepped(trainer).params, by_optax(tx, tiny_net, tiny_feed))


def by_library(tx: Any, net: gt.Network, feed: Feed, decay: float) -> Any:
    """Parameters after the same steps of a game, taken with the library alone."""
    params = initial_variables(net, feed, 0)["params"]
    state, update = tx.init(params), jax.jit(tx.update)
    order = np.random.default_rng([0, 1]).permutation(feed.samples)
    for row in order[: STEPS * 4].reshape(STEPS, 4):
        batch = (feed.train.images[row], feed.train.labels[row])
        shrinking = jax.tree.map(lambda param: decay * param, params)
        updates, state = update(shrinking, state, params, batch=batch)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.slow
def test_games_take_the_steps_of_the_library(tiny_net: gt.Network, tiny_feed: Feed) -> None:
    """With decay and schedule; the games differ from their base and from each other."""
    settings = TrainSettings(0.1, schedule="cosine", weight_decay=0.1)
    rate = optax.cosine_decay_schedule(0.1, 9)
    terminal = gt.terminal.ExactLoss(max_shift=1.0, bounds=(0.02, 10.0))
    optimizers: dict[str, Any] = {
        "none": optax.chain(optax.add_decayed_weights(0.1), optax.adam(rate)),
        "sequential": gt.adam(tiny_net, cross_entropy, rate, terminal=terminal),
        "implicit": gt.implicit(optax.adam(rate), tiny_net, cross_entropy),
    }
    kernels = []
    for game in GAMES:
        method = build_method("adam", game)
        params = stepped(Trainer(method, tiny_net, tiny_feed, settings, batch_size=4)).params
        by_hand = by_optax if game == "none" else partial(by_library, decay=0.1)
        close(params, by_hand(optimizers[game], tiny_net, tiny_feed))
        dense: Any = params["Dense_0"]
        kernels.append(np.asarray(dense["kernel"]))
    for one, other in itertools.combinations(kernels, 2):
        assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_schedules(name: str) -> None:
    rate: Any = TrainSettings(0.5, schedule=name).scheduled_rate(100)
    course = [rate if isinstance(rate, float) else float(rate(s)) for s in (0, 49, 50, 75, 100)]
    expected = {
        "constant": [0.5] * 5,
        "cosine": [0.5, 0.25 * (1 + np.cos(0.49 * np.pi)), 0.25, 0.25 * (1 - np.sqrt(0.5)), 0],
        "step": [0.5, 0.5, 0.05, 0.005, 0.005],
    }
    np.testing.assert_allclose(course, expected[name], atol=1e-7)


def test_scan_equals_loop(base: Trainer, tiny_net: gt.Network, tiny_feed: Feed) -> None:
    scanned = Trainer(base.method, tiny_net, tiny_feed, TrainSettings(0.01), 4, dispatch="scan")
    left, right = stepped(scanned), stepped(base)
    close(left, right)
    assert int(left.step) == STEPS
    assert int(left.totals.steps) == STEPS


def test_an_unknown_dispatch_lists_the_known_ones(tiny_net: gt.Network, tiny_feed: Feed) -> None:
    trainer = Trainer(
        build_method("sgd", "none"), tiny_net, tiny_feed, TrainSettings(0.01), 4, dispatch="fast"
    )
    with pytest.raises(ValueError, match=r"Invalid dispatch: 'fast'\. Supported: loop, scan"):
        stepped(trainer)


def test_several_seeds_at_once_equal_single_runs(base: Trainer) -> None:
    together = stepped(base, (0, 7))
    for place, seed in enumerate((0, 7)):
        close(jax.tree.map(lambda x, i=place: x[i], together), stepped(base, (seed,)), rtol=1e-4)
    first, second = base.figures(together)
    assert first.loss != second.loss
    assert len(base.score_validation(together)) == 2
    cleared = base.new_epoch(together)
    assert cleared.totals.steps.tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_statistics_and_dropout(tiny_feed: Feed, game: str) -> None:
    """All games use batch statistics and dropout like a step with Flax alone."""
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
    net = gt.Network([flatten, nn.Dense(4), norm, nn.tanh, nn.Dropout(0.5), nn.Dense(3)])
    trainer = Trainer(build_method("sgd", game), net, tiny_feed, TrainSettings(0.01), batch_size=8)
    start = trainer.start((3,))
    (row,) = trainer.rows((3,), 0, 1)
    result: Any = net.apply(
        start.params,
        tiny_feed.train.images[row],
        batch_stats=start.batch_stats,
        train=True,
        rngs={"dropout": step_key(start)},
    )
    outputs, statistics = result
    loss = cross_entropy(outputs, tiny_feed.train.labels[row]).mean()
    after = stepped(trainer, (3,), steps=1)
    close(after.batch_stats, statistics)
    close(after.totals.loss, loss)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(after)]
    assert sum("'mean'" in name for name in names) == 1  # statistics stand once in the state


TEXT = np.random.default_rng(0).integers(97, 102, 242)
TEXTS = Dataset("texts", *text_samples(TEXT[:177], 4), *text_samples(TEXT[177:], 4), classes=128)
"""Texts of four characters, from a to e, with four labels each."""


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_texts_have_a_label_at_every_position(game: str) -> None:
    """All games train a language model; loss and accuracy are means over all positions."""
    net = build_network("char-gpt", TEXTS.classes, width=8, blocks=1, heads=2)
    trainer = Trainer(build_method("adam", game), net, Feed(TEXTS), TrainSettings(0.03), 4)
    last = records(trainer, seed=0, epochs=3)[-1]
    state = stepped(trainer, (0,), steps=33)
    score = trainer.score_validation(state)[0]
    outputs = np.asarray(net.apply(state.params, TEXTS.validation_images))
    positions = jax.nn.log_softmax(outputs)[
        np.arange(16)[:, None], np.arange(4)[None], TEXTS.validation_labels
    ]
    np.testing.assert_allclose(score.loss, -positions.mean(), rtol=1e-5)
    assert score.accuracy == (outputs.argmax(-1) == TEXTS.validation_labels).mean()
    assert last.train_loss < 0.5 * np.log(128)


def test_outputs_must_match_the_labels() -> None:
    scores = jnp.zeros((3, 4, 5))
    np.testing.assert_allclose(
        cross_entropy(scores, jnp.zeros((3, 4), int)), np.log(5) * np.ones(3)
    )
    with pytest.raises(
        ValueError, match=r"outputs of shape \(3, 4, 5\) for labels of shape \(3,\)"
    ):
        cross_entropy(scores, jnp.zeros(3, int))
    with pytest.raises(ValueError, match="Choose char-gpt for data sets of text"):
        cross_entropy(scores[:, 0], jnp.zeros((3, 4), int))


def test_keys_differ_from_step_to_step(base: Trainer) -> None:
    start = base.start((0,))
    keys = [step_key(start._replace(step=jnp.int32(step))) for step in (0, 1)]
    keys.append(step_key(start._replace(seed=jnp.uint32(1))))
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3


def test_interruptions_do_not_change_a_run(base: Trainer) -> None:
    """Other chunks and a trace of some steps give the same figures."""
    traced: list[str] = []

    @contextmanager
    def trace() -> Any:
        traced.append("begin")
        yield
        traced.append("end")

    plain = [e for e in run_unit(base, (0,), RunPlan(2)) if isinstance(e, TrainProgress)]
    plan = RunPlan(2, log_every=2, checkpoint_every=5, profile=(3, 6))
    chopped = [e for e in run_unit(base, (0,), plan, trace=trace) if isinstance(e, TrainProgress)]
    assert traced == ["begin", "end"] * 3  # steps 3 to 4, 4 to 5 and 5 to 6
    assert [e.step for e in chopped] == [2, 3, 4, 5, 6, 8, 9, 10, 11, 13, 15, 17, 18]
    assert [e.step for e in plain] == [9, 18]
    assert chopped[-1].figures == plain[-1].figures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "x"}, "Invalid schedule: 'x'"),
        (
            {"weight_decay": -1.0},
            "weight_decay must be 0 or a number from",
        ),
        (
            {"learning_rate": 0.0},
            "learning_rate must be a number from",
        ),
    ],
)
def test_settings_check_themselves(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TrainSettings(0.1), **change)
