"""Watched images: which, what they weigh, and that watching changes nothing."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import gtddp_jax as gt
from gtddp_jax.training.checkpoints import Checkpoints
from gtddp_jax.training.clock import Clock
from gtddp_jax.training.data import Dataset, Feed
from gtddp_jax.training.methods import method
from gtddp_jax.training.records import EpochRecord, Resumed
from gtddp_jax.training.runner import Plan, run
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.trainer import Trainer
from gtddp_jax.training.watch import EXTREMES, LEVELS, digest, png, watched_rows


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
    kept = digest(weights, images)
    np.testing.assert_allclose(kept["quantiles"], np.quantile(weights, LEVELS), rtol=1e-5)
    np.testing.assert_allclose([row[2] for row in kept["stages"]], np.median(weights, 1), rtol=1e-5)
    means = weights.mean(0)
    assert kept["highest"][0] == [100 + means.argmax(), float(f"{means.max():.6g}")]
    assert kept["lowest"][0] == [100 + means.argmin(), float(f"{means.min():.6g}")]
    assert len(kept["highest"]) == len(kept["lowest"]) == EXTREMES
    assert (kept["images"], kept["not_finite"]) == (40, 0)


def test_a_digest_leaves_out_what_is_not_finite() -> None:
    nothing = [np.nan, -np.inf, np.nan, np.nan]
    kept = digest(np.array([[1.0, np.inf, 3.0, 5.0], nothing]), np.arange(4))
    assert kept["not_finite"] == 5
    assert kept["quantiles"][0] == 1 and kept["quantiles"][-1] == 5
    assert kept["stages"][1] == []
    assert kept["highest"] == kept["lowest"] == []


def test_pictures_are_the_images() -> None:
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    read = Image.open(io.BytesIO(base64.b64decode(png(image))))
    np.testing.assert_array_equal(np.asarray(read), np.rint(255 * image))
    assert Image.open(io.BytesIO(base64.b64decode(png(image[..., :1])))).mode == "L"


@pytest.fixture(scope="module")
def trainer(tiny_feed: Feed, tiny_net: gt.Network) -> Trainer:
    return Trainer(method("adam", "sequential"), tiny_net, tiny_feed, Settings(0.01), batch_size=4)


def test_watching_tells_the_weights_and_changes_nothing(
    trainer: Trainer, tiny_dataset: Dataset
) -> None:
    clock = Clock()
    watched = [
        e for e in run(trainer, (3,), Plan(2, watch=12), clock=clock) if isinstance(e, EpochRecord)
    ]
    plain = [e for e in run(trainer, (3,), Plan(2)) if isinstance(e, EpochRecord)]
    for one, other in zip(watched, plain, strict=True):
        assert other.weights is None
        assert replace(one, weights=None, seconds=other.seconds) == other
    last = watched[-1].weights
    assert last is not None
    assert (last["images"], len(last["stages"])) == (12, 3)
    assert last["quantiles"][0] < last["quantiles"][-1]
    rows = trainer.watched(12)
    pictures = trainer.pictures(12)["images"]
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


def test_a_run_that_goes_on_has_the_weights_of_one_that_never_stopped(
    trainer: Trainer, tmp_path: Path
) -> None:
    whole = [e for e in run(trainer, (3,), Plan(2, watch=12)) if isinstance(e, EpochRecord)]
    for plan in (Plan(1, watch=12), Plan(2, watch=12)):
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            events = list(run(trainer, (3,), plan, checkpoints))
    before, after = events[0], events[-1]
    assert isinstance(before, Resumed)
    assert isinstance(after, EpochRecord)
    found = [record.weights for record in (*before.records, after)]
    assert found == [record.weights for record in whole]


def test_the_weights_are_those_of_the_next_step(trainer: Trainer) -> None:
    """Of a first step on a watched batch: the report's extremes are those of the digest."""
    state = trainer.start((3,))
    (kept,) = trainer.watch(state, 4)
    (row,) = trainer.watched(4)
    after = trainer.train(jax.tree.map(lambda x: x.copy(), state), row[None])
    report = after.opt_state.report
    np.testing.assert_allclose(kept["quantiles"][0], report.weight_min, rtol=1e-5)
    np.testing.assert_allclose(kept["quantiles"][-1], report.weight_max, rtol=1e-5)


def test_several_seeds_at_once_have_the_weights_of_each(trainer: Trainer) -> None:
    both = trainer.watch(trainer.start((3, 5)), 12)
    for seed, kept in zip((3, 5), both, strict=True):
        (alone,) = trainer.watch(trainer.start((seed,)), 12)
        np.testing.assert_allclose(kept["quantiles"], alone["quantiles"], rtol=1e-4)


def test_a_base_optimizer_has_no_weights_to_watch(tiny_feed: Feed, tiny_net: gt.Network) -> None:
    base = Trainer(method("adam", "none"), tiny_net, tiny_feed, Settings(0.01), batch_size=8)
    records = [e for e in run(base, (3,), Plan(1, watch=8)) if isinstance(e, EpochRecord)]
    assert [record.weights for record in records] == [None]


def test_a_number_of_images_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="watch must be at least 0, got -1"):
        Plan(1, watch=-1)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Invalid part: 'x'\. Supported: loading, compilation"):
        Clock().add("adam", "x", 1.0)
