"""Watched images: selection, weights, and that watching changes nothing."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import gtddp_jax as gt
from gtddp_lab.data import Dataset, Feed
from gtddp_lab.training.checkpoints import Checkpoints
from gtddp_lab.training.clock import RunClock
from gtddp_lab.training.methods import build_method
from gtddp_lab.training.records import EpochRecord, UnitResumed
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.trainer import Trainer
from gtddp_lab.training.watch import (
    EXTREME_COUNT,
    QUANTILE_LEVELS,
    png_base64,
    watched_rows,
    weight_digest,
)


@pytest.mark.parametrize(
    ("samples", "batch", "images", "batches"),
    [(38, 4, 12, 3), (38, 4, 1, 1), (38, 4, 1000, 9), (38, 38, 5, 1)],
)
def test_whole_batches_of_different_images(
    samples: int, batch: int, images: int, batches: int
) -> None:
    rows = watched_rows(samples, batch, images)
    assert rows.shape == (batches, batch)
    assert len(np.unique(rows)) == rows.size
    assert rows.min() >= 0
    assert rows.max() < samples


def test_a_digest_keeps_quantiles_and_extremes() -> None:
    rng = np.random.default_rng(0)
    weights = rng.lognormal(size=(3, 40))
    images = np.arange(100, 140)
    kept = weight_digest(weights, images)
    np.testing.assert_allclose(kept["quantiles"], np.quantile(weights, QUANTILE_LEVELS), rtol=1e-5)
    np.testing.assert_allclose([row[2] for row in kept["stages"]], np.median(weights, 1), rtol=1e-5)
    means = weights.mean(0)
    assert kept["highest"][0] == [100 + means.argmax(), float(f"{means.max():.6g}")]
    assert kept["lowest"][0] == [100 + means.argmin(), float(f"{means.min():.6g}")]
    assert len(kept["highest"]) == len(kept["lowest"]) == EXTREME_COUNT
    assert (kept["images"], kept["not_finite"]) == (40, 0)


def test_a_digest_ignores_values_that_are_not_finite() -> None:
    nothing = [np.nan, -np.inf, np.nan, np.nan]
    kept = weight_digest(np.array([[1.0, np.inf, 3.0, 5.0], nothing]), np.arange(4))
    assert kept["not_finite"] == 5
    assert kept["quantiles"][0] == 1 and kept["quantiles"][-1] == 5
    assert kept["stages"][1] == []
    assert kept["highest"] == kept["lowest"] == []


def test_pictures_are_the_images() -> None:
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    read = Image.open(io.BytesIO(base64.b64decode(png_base64(image))))
    np.testing.assert_array_equal(np.asarray(read), np.rint(255 * image))
    assert Image.open(io.BytesIO(base64.b64decode(png_base64(image[..., :1])))).mode == "L"


@pytest.fixture(scope="module")
def trainer(tiny_feed: Feed, tiny_net: gt.Network) -> Trainer:
    return Trainer(
        build_method("adam", "sequential"), tiny_net, tiny_feed, TrainSettings(0.01), batch_size=4
    )


@pytest.mark.slow
def test_watching_records_weights_and_changes_nothing(
    trainer: Trainer, tiny_dataset: Dataset
) -> None:
    clock = RunClock()
    watched = [
        e
        for e in run_unit(trainer, (3,), RunPlan(2, watch=12), clock=clock)
        if isinstance(e, EpochRecord)
    ]
    plain = [e for e in run_unit(trainer, (3,), RunPlan(2)) if isinstance(e, EpochRecord)]
    for one, other in zip(watched, plain, strict=True):
        assert other.sample_weights is None
        assert replace(one, sample_weights=None, seconds=other.seconds) == other
    last = watched[-1].sample_weights
    assert last is not None
    assert (last["images"], len(last["stages"])) == (12, 3)
    assert last["quantiles"][0] < last["quantiles"][-1]
    rows = trainer.watched_rows(12)
    pictures = trainer.watched_pictures(12)["images"]
    assert [entry["index"] for entry in pictures] == sorted(rows.ravel().tolist())
    assert {image for image, _ in last["highest"] + last["lowest"]} <= set(rows.ravel().tolist())
    for entry in pictures:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["png"]))))
        image = tiny_dataset.train_images[entry["index"], ..., 0]
        np.testing.assert_array_equal(shown, np.rint(255 * image))
        assert entry["label"] == tiny_dataset.train_labels[entry["index"]]
    assert set(clock.seconds[trainer.method.name]) >= {
        "compilation",
        "steps",
        "evaluation",
        "weights",
    }


def test_a_resumed_run_records_the_same_weights(trainer: Trainer, tmp_path: Path) -> None:
    whole = [e for e in run_unit(trainer, (3,), RunPlan(2, watch=12)) if isinstance(e, EpochRecord)]
    for plan in (RunPlan(1, watch=12), RunPlan(2, watch=12)):
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            events = list(run_unit(trainer, (3,), plan, checkpoints))
    before, after = events[0], events[-1]
    assert isinstance(before, UnitResumed)
    assert isinstance(after, EpochRecord)
    found = [record.sample_weights for record in (*before.records, after)]
    assert found == [record.sample_weights for record in whole]


def test_the_weights_are_those_of_the_next_step(trainer: Trainer) -> None:
    """The step on a watched batch reports the same extremes as the digest."""
    state = trainer.start((3,))
    (kept,) = trainer.digest_weights(state, 4)
    (row,) = trainer.watched_rows(4)
    after = trainer.train(jax.tree.map(lambda x: x.copy(), state), row[None])
    report = after.opt_state.report
    np.testing.assert_allclose(kept["quantiles"][0], report.sample_weight_min, rtol=1e-5)
    np.testing.assert_allclose(kept["quantiles"][-1], report.sample_weight_max, rtol=1e-5)


@pytest.mark.slow
def test_several_seeds_at_once_have_the_weights_of_single_runs(trainer: Trainer) -> None:
    both = trainer.digest_weights(trainer.start((3, 5)), 12)
    for seed, kept in zip((3, 5), both, strict=True):
        (alone,) = trainer.digest_weights(trainer.start((seed,)), 12)
        np.testing.assert_allclose(kept["quantiles"], alone["quantiles"], rtol=1e-4)


def test_a_base_optimizer_has_no_weights_to_watch(tiny_feed: Feed, tiny_net: gt.Network) -> None:
    base = Trainer(
        build_method("adam", "none"), tiny_net, tiny_feed, TrainSettings(0.01), batch_size=8
    )
    records = [e for e in run_unit(base, (3,), RunPlan(1, watch=8)) if isinstance(e, EpochRecord)]
    assert [record.sample_weights for record in records] == [None]


def test_a_number_of_images_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="watch must be a whole number from 0 to"):
        RunPlan(1, watch=-1)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Invalid part: 'x'\. Supported: loading, compilation"):
        RunClock().add_seconds("adam", "x", 1.0)
