"""Fixtures that all tests of the lab share: a problem that compiles within a second."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_lab.data import Dataset, Feed
from gtddp_lab.networks import flatten
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.settings import TrainSettings


@pytest.fixture(autouse=True)
def no_rank_promotion() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def tiny_dataset() -> Dataset:
    """2x2 images of three classes, distinguished by their brightest pixel."""
    rng = np.random.default_rng(0)
    labels = np.arange(50, dtype=np.int32) % 3
    images = rng.uniform(0, 0.4, size=(50, 4)).astype(np.float32)
    images[np.arange(50), labels] += 0.6
    images = images.reshape(50, 2, 2, 1)
    return Dataset("tiny", images[:38], labels[:38], images[38:], labels[38:], classes=3)


@pytest.fixture(scope="session")
def tiny_feed(tiny_dataset: Dataset) -> Feed:
    return Feed(tiny_dataset)


@pytest.fixture(scope="session")
def tiny_net() -> gt.Network:
    return gt.Network(
        [flatten, nn.Dense(4), nn.tanh, gt.Residual([nn.Dense(4), nn.tanh]), nn.Dense(3)]
    )


@pytest.fixture
def settings() -> TrainSettings:
    return TrainSettings(learning_rate=0.01, rollout="linear", terminal="exact_loss", max_shift=1.0)


@pytest.fixture
def experiment(settings: TrainSettings) -> Experiment:
    return Experiment(
        dataset="digits",
        network="residual-conv",
        optimizer="adam",
        games=("none", "sequential"),
        settings=settings,
        epochs=2,
        batch_size=8,
        seeds=(3, 5),
    )


@pytest.fixture
def records() -> list[EpochRecord]:
    """Two methods, two seeds, two epochs; the last epoch of the last run is missing."""
    rows = [
        EpochRecord(
            method=method,
            seed=seed,
            epoch=epoch,
            train_loss=1.0 / epoch,
            average_loss=2.0 / epoch,
            validation_loss=1.5,
            validation_accuracy=0.9 + 0.01 * seed,
            seconds=0.5,
            report={"skipped_steps": 0.0, "sample_weight_std": [0.1, 0.2]}
            if method != "adam"
            else {},
        )
        for seed in (3, 5)
        for method in ("adam", "gtddp-adam")
        for epoch in (1, 2)
    ]
    return rows[:-1]
