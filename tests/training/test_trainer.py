"""The state that a trainer carries, however its steps are taken."""

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.training.data import Feed
from gtddp_jax.training.methods import GAMES, method
from gtddp_jax.training.networks import flatten
from gtddp_jax.training.problem import LOSS
from gtddp_jax.training.records import Progress
from gtddp_jax.training.runner import Plan, run
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.state import TrainState, step_key
from gtddp_jax.training.trainer import Trainer, initial_variables

STEPS = 3


def stepped(trainer: Trainer, seeds: tuple[int, ...] = (0,), steps: int = STEPS) -> TrainState:
    return trainer.train(trainer.start(seeds), trainer.rows(seeds, 0, steps))


def close(left: Any, right: Any, rtol: float = 1e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), left, right)


@pytest.fixture(scope="module")
def base(tiny_net: gt.Network, tiny_feed: Feed) -> Trainer:
    return Trainer(method("adam", "none"), tiny_net, tiny_feed, Settings(0.01), batch_size=4)


def by_optax(tx: Any, net: gt.Network, feed: Feed) -> Any:
    """Parameters after the plain optax training of the same batches."""
    params = initial_variables(net, feed, 0)["params"]
    state = tx.init(params)
    trainer = Trainer(method("sgd", "none"), net, feed, Settings(0.01), batch_size=4)
    for row in trainer.rows((0,), 0, STEPS):
        images, labels = feed.train.images[row], feed.train.labels[row]
        gradient = jax.grad(lambda p, x, y: LOSS(net.apply(p, x), y).mean())(params, images, labels)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_weight_decay_and_schedule_are_those_of_optax(
    tiny_net: gt.Network, tiny_feed: Feed
) -> None:
    settings = Settings(0.01, schedule="cosine", weight_decay=0.1)
    trainer = Trainer(method("adam", "none"), tiny_net, tiny_feed, settings, batch_size=4, epochs=2)
    tx = optax.chain(
        optax.add_decayed_weights(0.1), optax.adam(optax.cosine_decay_schedule(0.01, 18))
    )
    close(stepped(trainer).params, by_optax(tx, tiny_net, tiny_feed))


def test_games_take_decay_and_schedule_too(tiny_net: gt.Network, tiny_feed: Feed) -> None:
    plain, decayed, scheduled = (
        np.asarray(
            stepped(Trainer(method("sgd", "sequential"), tiny_net, tiny_feed, settings, 4)).params[
                "Dense_0"
            ]["kernel"]
        )
        for settings in (
            Settings(0.01),
            Settings(0.01, weight_decay=0.1),
            Settings(0.01, schedule="step"),
        )
    )
    assert np.abs(plain - decayed).max() > 1e-5
    np.testing.assert_array_equal(plain, scheduled)  # not yet half of the steps


@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_schedules(name: str) -> None:
    rate: Any = Settings(0.5, schedule=name).rate(100)
    course = [rate if isinstance(rate, float) else float(rate(s)) for s in (0, 49, 50, 75, 100)]
    expected = {
        "constant": [0.5] * 5,
        "cosine": [0.5, 0.25 * (1 + np.cos(0.49 * np.pi)), 0.25, 0.25 * (1 - np.sqrt(0.5)), 0],
        "step": [0.5, 0.5, 0.05, 0.005, 0.005],
    }
    np.testing.assert_allclose(course, expected[name], atol=1e-7)


def test_a_scan_is_the_loop(base: Trainer, tiny_net: gt.Network, tiny_feed: Feed) -> None:
    scanned = Trainer(base.method, tiny_net, tiny_feed, Settings(0.01), 4, dispatch="scan")
    left, right = stepped(scanned), stepped(base)
    close(left, right)
    assert int(left.step) == STEPS
    assert int(left.totals.steps) == STEPS


def test_an_unknown_dispatch_lists_the_known_ones(tiny_net: gt.Network, tiny_feed: Feed) -> None:
    trainer = Trainer(
        method("sgd", "none"), tiny_net, tiny_feed, Settings(0.01), 4, dispatch="fast"
    )
    with pytest.raises(ValueError, match=r"Invalid dispatch: 'fast'\. Supported: loop, scan"):
        stepped(trainer)


def test_several_seeds_at_once_are_the_single_ones(base: Trainer) -> None:
    together = stepped(base, (0, 7))
    for place, seed in enumerate((0, 7)):
        close(jax.tree.map(lambda x, i=place: x[i], together), stepped(base, (seed,)), rtol=1e-4)
    first, second = base.figures(together)
    assert first.loss != second.loss
    assert len(base.score_validation(together)) == 2
    cleared = base.new_epoch(together)
    assert cleared.totals.steps.tolist() == [0, 0]


@pytest.mark.parametrize("game", GAMES)
def test_statistics_and_dropout(tiny_feed: Feed, game: str) -> None:
    """All games normalise, update the statistics and drop as the plain Flax step does."""
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
    net = gt.Network([flatten, nn.Dense(4), norm, nn.tanh, nn.Dropout(0.5), nn.Dense(3)])
    trainer = Trainer(method("sgd", game), net, tiny_feed, Settings(0.01), batch_size=8)
    start = trainer.start((3,))
    (row,) = trainer.rows((3,), 0, 1)
    outputs, statistics = net.apply(
        start.params,
        tiny_feed.train.images[row],
        batch_stats=start.batch_stats,
        train=True,
        rngs={"dropout": step_key(start)},
    )
    loss = LOSS(outputs, tiny_feed.train.labels[row]).mean()
    after = stepped(trainer, (3,), steps=1)
    close(after.batch_stats, statistics)
    close(after.totals.loss, loss)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(after)]
    assert sum("'mean'" in name for name in names) == 1  # statistics stand once in the state


def test_keys_differ_from_step_to_step(base: Trainer) -> None:
    start = base.start((0,))
    keys = [step_key(start._replace(step=jnp.int32(step))) for step in (0, 1)]
    keys.append(step_key(start._replace(seed=jnp.uint32(1))))
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3


def test_where_a_run_looks_up_does_not_change_it(base: Trainer) -> None:
    """Other chunks, a trace of some steps: the same figures."""
    traced: list[str] = []

    @contextmanager
    def trace() -> Any:
        traced.append("begin")
        yield
        traced.append("end")

    plain = [e for e in run(base, (0,), Plan(2)) if isinstance(e, Progress)]
    plan = Plan(2, log_every=2, checkpoint_every=5, profile=(3, 6))
    chopped = [e for e in run(base, (0,), plan, trace=trace) if isinstance(e, Progress)]
    assert traced == ["begin", "end"] * 3  # steps 3 to 4, 4 to 5 and 5 to 6
    assert [e.step for e in chopped] == [2, 3, 4, 5, 6, 8, 9, 10, 11, 13, 15, 17, 18]
    assert [e.step for e in plain] == [9, 18]
    assert chopped[-1].figures == plain[-1].figures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "x"}, "Invalid schedule: 'x'"),
        ({"weight_decay": -1.0}, "weight_decay must be finite and at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_settings_check_themselves(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Settings(0.1), **change)
