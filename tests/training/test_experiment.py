"""Comparisons are paired and repeatable."""

from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.training.data import Feed
from gtddp_jax.training.experiment import Experiment, compare
from gtddp_jax.training.methods import method
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.trainer import Trainer, initial_variables
from tests.training.helpers import records as epoch_records


@pytest.fixture
def trainers(tiny_net: gt.Network, tiny_feed: Feed, settings: Settings) -> tuple[Trainer, ...]:
    return tuple(
        Trainer(method("adam", game), tiny_net, tiny_feed, settings, batch_size=4)
        for game in ("none", "sequential")
    )


def _scores(record: EpochRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name != "seconds"}


def test_initial_parameters_are_a_function_of_the_seed(
    tiny_net: gt.Network, tiny_feed: Feed
) -> None:
    first, again, other = (initial_variables(tiny_net, tiny_feed, seed) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), first, again))
    assert not jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), first, other))


def test_methods_start_from_the_same_parameters_and_batch(
    tiny_net: gt.Network, tiny_feed: Feed, settings: Settings
) -> None:
    """With one batch in an epoch, its running average is the loss before the first step."""
    first = {}
    for game in ("none", "sequential"):
        trainer = Trainer(method("adam", game), tiny_net, tiny_feed, settings, batch_size=30)
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
        for r in compare(experiment, trainers)
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
    report = epoch_records(game, seed=0, epochs=1)[0].report
    assert report["weight_min"] <= report["weight_mean"] <= report["weight_max"]
    assert len(report["feedback_ratio"]) == 3  # one per stage


def test_a_batch_larger_than_the_data_is_refused(
    tiny_net: gt.Network, tiny_feed: Feed, settings: Settings
) -> None:
    with pytest.raises(ValueError, match="batch_size must be from 1 to 38"):
        Trainer(method("sgd", "none"), tiny_net, tiny_feed, settings, batch_size=39)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "x"}, "Invalid dataset: 'x'"),
        ({"network": "x"}, "Invalid network: 'x'"),
        ({"optimizer": "x"}, "Invalid optimizer: 'x'"),
        ({"games": ("x",)}, "Invalid game: 'x'"),
        ({"games": ("implicit", "implicit")}, "games must be different"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seeds": ()}, "seeds must be"),
        ({"seeds": (1, 1)}, "seeds must be"),
        ({"seeds": (-1,)}, "seeds must be"),
    ],
)
def test_experiments_check_themselves(
    experiment: Experiment, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(experiment, **change)
