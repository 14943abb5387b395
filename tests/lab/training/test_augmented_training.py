"""Training on augmented images, against a loop written out in NumPy: batches, keys and updates.

Nothing of the trainer is used in the loop: it draws the order of the samples, the shift of every
image and the gradient of a linear classifier itself.
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_lab.data import Dataset, Feed
from gtddp_lab.networks import flatten
from gtddp_lab.training.checkpoints import Checkpoints
from gtddp_lab.training.methods import GAMES, build_method
from gtddp_lab.training.records import EpochRecord, UnitResumed
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.state import RunState
from gtddp_lab.training.trainer import Trainer

SAMPLES, BATCH, SIZE, CLASSES = 13, 4, 6, 3
STEPS_PER_EPOCH, EPOCHS = 3, 2  # one sample is left over
RATE = 0.5
SEEDS = (3, 5)
TINY_RATE = 1e-12
"""So small that float32 parameters do not move."""

RNG = np.random.default_rng(0)
IMAGES = RNG.random((SAMPLES + 2, SIZE, SIZE, 1), np.float32)
LABELS = np.arange(SAMPLES + 2, dtype=np.int32) % CLASSES


def shifted(image: np.ndarray, seed: int, step: int, position: int) -> np.ndarray:
    """The window of the image with a black border of 4 pixels that its key draws."""
    key = jax.random.key(seed)
    for number in (step, position):
        key = jax.random.fold_in(key, number)
    row, column = np.asarray(jax.random.randint(key, (2,), 0, 9))
    padded = np.zeros((SIZE + 8, SIZE + 8, 1))
    padded[4:-4, 4:-4] = image
    return padded[row : row + SIZE, column : column + SIZE]


@functools.cache
def literal_batches(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs [batch, pixels] and labels [batch] of all steps."""
    batches = []
    for epoch in range(EPOCHS):
        order = np.random.default_rng([seed, epoch + 1]).permutation(SAMPLES)
        for place in range(STEPS_PER_EPOCH):
            step = epoch * STEPS_PER_EPOCH + place
            chosen = order[place * BATCH : (place + 1) * BATCH]
            images = [
                shifted(IMAGES[row], seed, step, position) for position, row in enumerate(chosen)
            ]
            batches.append((np.stack(images).reshape(BATCH, -1), LABELS[chosen]))
    return batches


def literal_run(
    seed: int, params: dict[str, np.ndarray], rate: float
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Parameters after gradient descent in float64, and the mean losses of the epochs' batches."""
    kernel, bias = (params[name].astype(np.float64) for name in ("kernel", "bias"))
    losses = []
    for inputs, labels in literal_batches(seed):
        logits = inputs @ kernel + bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        chosen = probabilities[np.arange(BATCH), labels]
        losses.append(-np.log(chosen).mean())
        error = (probabilities - np.eye(CLASSES)[labels]) / BATCH
        kernel, bias = kernel - rate * inputs.T @ error, bias - rate * error.sum(axis=0)
    means = np.reshape(losses, (EPOCHS, STEPS_PER_EPOCH)).mean(axis=1)
    return {"kernel": kernel, "bias": bias}, means.tolist()


@functools.cache
def linear_trainer(game: str = "none", rate: float = RATE, dispatch: str = "loop") -> Trainer:
    dataset = Dataset(
        "noise", IMAGES[:SAMPLES], LABELS[:SAMPLES], IMAGES[SAMPLES:], LABELS[SAMPLES:], CLASSES
    )
    # The feed's own seed must not matter: every run has its own stream.
    feed = Feed(dataset, augmentation="crop", seed=99)
    net = gt.Network([flatten, nn.Dense(CLASSES)])
    method = build_method("plain_sgd", game)
    return Trainer(method, net, feed, TrainSettings(rate), BATCH, EPOCHS, dispatch=dispatch)


def dense_params(state: RunState, place: Any = ...) -> dict[str, np.ndarray]:
    dense: Any = state.params["Dense_0"]
    # A copy: the state is donated to the next step.
    return {name: np.array(leaf)[place] for name, leaf in dense.items()}


def check_params(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dispatch", ["loop", "scan"])
@pytest.mark.parametrize("seeds", [(5,), SEEDS], ids=str)
def test_training_equals_a_literal_loop(seeds: tuple[int, ...], dispatch: str) -> None:
    trainer = linear_trainer(dispatch=dispatch)
    assert trainer.steps_per_epoch == STEPS_PER_EPOCH
    state = trainer.start(seeds)
    places = [...] if len(seeds) == 1 else list(range(len(seeds)))
    starts = [dense_params(state, place) for place in places]
    mean_losses = []
    for epoch in range(EPOCHS):
        first = epoch * STEPS_PER_EPOCH
        state = trainer.train(state, trainer.rows(seeds, first, STEPS_PER_EPOCH))
        mean_losses.append([figures.loss for figures in trainer.figures(state)])
        state = trainer.new_epoch(state)
    for number, (seed, place) in enumerate(zip(seeds, places, strict=True)):
        params, expected_losses = literal_run(seed, starts[number], RATE)
        check_params(dense_params(state, place), params)
        found = [losses[number] for losses in mean_losses]
        np.testing.assert_allclose(found, expected_losses, rtol=1e-5)


@pytest.mark.parametrize("game", GAMES)
def test_every_game_sees_the_literal_batches(game: str) -> None:
    """At a rate of almost zero the losses of an epoch are those of its batches alone."""
    trainer = linear_trainer(game, TINY_RATE)
    for seed in SEEDS:
        params = dense_params(trainer.start((seed,)))
        _, expected = literal_run(seed, params, 0.0)
        events = run_unit(trainer, (seed,), RunPlan(EPOCHS))
        found = [event.average_loss for event in events if isinstance(event, EpochRecord)]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("taken", [1, 3, 5])
def test_a_run_that_stops_goes_on_like_a_literal_loop(taken: int, tmp_path: Path) -> None:
    """Stopped after any number of steps, within an epoch or at its end, and resumed from disk."""
    trainer, plan = linear_trainer(), RunPlan(EPOCHS, log_every=1)
    start = dense_params(trainer.start((3,)))
    steps = iter(range(1, taken + 1))
    with Checkpoints(tmp_path / "run") as kept:
        list(run_unit(trainer, (3,), plan, kept, stop=lambda: next(steps) == taken))
    with Checkpoints(tmp_path / "run") as kept:
        first, *rest = run_unit(trainer, (3,), plan, kept)
        saved = kept.restore(trainer.start((3,)))
    assert isinstance(first, UnitResumed) and first.step == taken
    assert saved is not None and saved.step == EPOCHS * STEPS_PER_EPOCH
    params, expected = literal_run(3, start, RATE)
    check_params(dense_params(saved.state), params)
    records = [*first.records, *(event for event in rest if isinstance(event, EpochRecord))]
    assert [record.epoch for record in records] == [1, 2]
    np.testing.assert_allclose([record.average_loss for record in records], expected, rtol=1e-5)
