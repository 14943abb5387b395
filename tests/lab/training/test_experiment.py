"""Comparisons are paired and repeatable."""

from dataclasses import asdict, replace
from typing import Any

import chex
import jax
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_lab.data import Feed
from gtddp_lab.training.experiment import Experiment, run_comparison
from gtddp_lab.training.methods import build_method
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.trainer import Trainer, initial_variables
from tests.lab.training.helpers import records as epoch_records


@pytest.fixture
def trainers(tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings) -> tuple[Trainer, ...]:
    return tuple(
        Trainer(build_method("adam", game), tiny_net, tiny_feed, settings, batch_size=4)
        for game in ("none", "sequential")
    )


def _scores(record: EpochRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name != "seconds"}


def test_initial_parameters_are_a_function_of_the_seed(
    tiny_net: gt.Network, tiny_feed: Feed
) -> None:
    first, again, other = (initial_variables(tiny_net, tiny_feed, seed) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert not jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), first, other))


@pytest.mark.slow
def test_methods_start_from_the_same_parameters_and_batch(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings
) -> None:
    """With one batch per epoch, the average loss is the loss before the first step."""
    first = {}
    for game in ("none", "sequential"):
        trainer = Trainer(build_method("adam", game), tiny_net, tiny_feed, settings, batch_size=30)
        for seed in (0, 1):
            (record,) = epoch_records(trainer, seed, epochs=1)
            first[game, seed] = record.average_loss
    np.testing.assert_allclose(first["none", 0], first["sequential", 0], rtol=1e-6)
    np.testing.assert_allclose(first["none", 1], first["sequential", 1], rtol=1e-6)
    assert abs(first["none", 0] - first["none", 1]) > 1e-3


def test_a_run_repeats_exactly(trainers: tuple[Trainer, ...]) -> None:
    for trainer in trainers:
        once, again = (
            [_scores(r) for r in epoch_records(trainer, seed=7, epochs=3)] for _ in range(2)
        )
        assert once == again


def test_comparisons_run_the_methods_of_a_seed_one_after_another(
    experiment: Experiment, trainers: tuple[Trainer, ...]
) -> None:
    rows = [
        (r.seed, r.method, r.epoch)
        for r in run_comparison(experiment, trainers)
        if isinstance(r, EpochRecord)
    ]
    assert rows == [
        (seed, name, epoch)
        for seed in (3, 5)
        for name in ("adam", "gtddp-adam")
        for epoch in (1, 2)
    ]


def test_reports_are_kept(trainers: tuple[Trainer, ...]) -> None:
    base, game = trainers
    assert epoch_records(base, seed=0, epochs=1)[0].report == {}
    (record,) = epoch_records(game, seed=0, epochs=1)
    smallest, mean, largest = (
        record.scalar(f"sample_weight_{name}") for name in ("min", "mean", "max")
    )
    assert smallest <= mean <= largest
    assert len(record.by_stage("feedback_ratio")) == 3


def test_a_batch_larger_than_the_data_is_refused(
    tiny_net: gt.Network, tiny_feed: Feed, settings: TrainSettings
) -> None:
    with pytest.raises(ValueError, match="batch_size must be from 1 to 38"):
        Trainer(build_method("sgd", "none"), tiny_net, tiny_feed, settings, batch_size=39)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "x"}, "Invalid dataset: 'x'"),
        ({"network": "x"}, "Invalid network: 'x'"),
        ({"optimizer": "x"}, "Invalid optimizer: 'x'"),
        ({"games": ("x",)}, "Invalid game: 'x'"),
        ({"games": ("implicit", "implicit")}, "games must be different"),
        ({"epochs": 0}, "epochs must be a whole number from 1 to 1000000, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 2147483647, got 0"),
        ({"seeds": ()}, "the number of seeds must be a whole number from 1 to 10000, got 0"),
        ({"seeds": (1, 1)}, "seeds must be different, got 1, 1"),
        ({"seeds": (-1,)}, "a seed must be a whole number from 0 to 4294967295, got -1"),
    ],
)
def test_experiments_check_themselves(
    experiment: Experiment, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(experiment, **change)
