"""Runs that are scored at an average of their iterates: the loop that users write."""

from dataclasses import replace
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_lab.data import Dataset, Feed
from gtddp_lab.networks import flatten
from gtddp_lab.training.averaging import AveragingState
from gtddp_lab.training.iterate_average import average_iterates, averaged_iterates
from gtddp_lab.training.methods import TrainingMethod, build_method
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.state import RunState
from gtddp_lab.training.totals import empty_totals
from gtddp_lab.training.trainer import Trainer
from tests.lab.training.helpers import records

LOSS = optax.softmax_cross_entropy_with_integer_labels
STEPS = 5


def optax_average(tx: Any, net: gt.Network, params: Any, batch: Any, *, game: bool) -> np.ndarray:
    """The average after some steps on one batch, in the loop that users write."""
    x, y = batch
    state, point = tx.init(params), params
    for _ in range(STEPS):
        if game:
            updates, state = tx.update(None, state, point, batch=batch)
        else:
            gradient = jax.grad(lambda q: LOSS(net.apply(q, x), y).mean())(point)
            updates, state = tx.update(gradient, state, point)
        point = optax.apply_updates(point, updates)
    base = state.base if game else state
    return np.asarray(ravel_pytree(optax.contrib.schedule_free_eval_params(base, point))[0])


def trained(
    method: TrainingMethod, net: gt.Network, params: Any, batch: Any, settings: TrainSettings
) -> RunState:
    """The state of a run after some steps on one batch."""
    tx = method.build(net, LOSS, settings, settings.scheduled_rate(STEPS), {})
    step = jax.jit(method.make_step(net, LOSS, tx, 0.0))
    zero = jnp.zeros((), jnp.int32)
    state = RunState(params, tx.init(params), {}, zero, zero, empty_totals({}))
    for _ in range(STEPS):
        result = step(state, batch, jax.random.key(0))
        state = state._replace(params=result.params, opt_state=result.opt_state)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("game", ["none", "implicit"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_run_is_the_optax_loop(
    tiny_net: gt.Network, tiny_dataset: Dataset, settings: TrainSettings, game: str, schedule: str
) -> None:
    """Whatever the schedule, the rate is constant."""
    batch = tiny_dataset.train_images[:8], tiny_dataset.train_labels[:8]
    params: Any = tiny_net.init(jax.random.key(0), batch[0])
    chosen = replace(settings, schedule=schedule, weighting="full")
    base = optax.contrib.schedule_free_adamw(settings.learning_rate)
    literal = base if game == "none" else gt.implicit(base, tiny_net, LOSS, weighting="full")
    want = optax_average(literal, tiny_net, params, batch, game=game != "none")

    state = trained(build_method("schedule_free", game), tiny_net, params, batch, chosen)
    got = np.asarray(ravel_pytree(state.params)[0])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert isinstance(state.opt_state, AveragingState)
    point = np.asarray(ravel_pytree(state.opt_state.point)[0])
    assert np.abs(point - got).max() > 1e-3  # scores are not those of the point


@pytest.mark.parametrize("game", ["none", "implicit"])
def test_batch_statistics_are_stored_once(
    tiny_feed: Feed, settings: TrainSettings, game: str
) -> None:
    net = gt.Network(
        [flatten, nn.Dense(4), nn.BatchNorm(use_running_average=False), nn.relu, nn.Dense(3)]
    )
    trainer = Trainer(build_method("schedule_free", game), net, tiny_feed, settings, batch_size=4)
    state = trainer.start((0,))
    assert state.batch_stats and getattr(state.opt_state.inner, "aux", {}) in ({}, None)
    losses = [record.train_loss for record in records(trainer, seed=0, epochs=8)]
    assert losses[-1] < losses[0]


def test_the_average_of_iterates_is_exponential() -> None:
    """Against the sum over all iterates, with the decay of every step."""
    tx = average_iterates(optax.sgd(0.5), decay=0.4)
    params: Any = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    state, iterates = tx.init(params), [params]
    for number in range(6):
        gradient = jax.tree.map(lambda p, n=number: jnp.sin(p + n), params)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        iterates.append(params)
    decays = [0.0, *(min(0.4, (1 + t) / (10 + t)) for t in range(1, 7))]
    weights = [(1 - d) * np.prod(decays[t + 1 :]) for t, d in enumerate(decays)]
    assert abs(sum(weights) - 1) < 1e-12
    want = jax.tree.map(lambda *ps: sum(w * p for w, p in zip(weights, ps, strict=True)), *iterates)
    chex.assert_trees_all_close(averaged_iterates(state, params), want, rtol=1e-6)


@pytest.mark.parametrize("game", ["none", "implicit"])
def test_averaged_nesterov_steps_like_nesterov(
    tiny_net: gt.Network, tiny_dataset: Dataset, settings: TrainSettings, game: str
) -> None:
    """Alone and in a game, the point is that of Nesterov and the run's parameters the average."""
    batch = tiny_dataset.train_images[:8], tiny_dataset.train_labels[:8]
    params: Any = tiny_net.init(jax.random.key(0), batch[0])
    plain, averaged = (
        trained(build_method(name, game), tiny_net, params, batch, settings)
        for name in ("nesterov", "ema_nesterov")
    )
    chex.assert_trees_all_close(averaged.opt_state.point, plain.params, rtol=1e-6)
    average = getattr(averaged.opt_state.inner, "base", averaged.opt_state.inner).average
    chex.assert_trees_all_equal(averaged.params, average)
