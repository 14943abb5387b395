"""Batches: their samples, their augmentation, and independence of devices and restarts."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtddp_lab import data
from gtddp_lab.data import Dataset, augmentation


@given(st.integers(0, 2**31), st.integers(0, 500), st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None)
def test_the_order_of_an_epoch(seed: int, epoch: int, samples: int, batch_size: int) -> None:
    if batch_size > samples:
        with pytest.raises(ValueError, match=f"batch_size must be from 1 to {samples}"):
            data.epoch_order(seed, epoch, samples, batch_size)
        return
    order = data.epoch_order(seed, epoch, samples, batch_size)
    assert order.shape == (samples // batch_size, batch_size)
    assert order.dtype == np.int32
    assert len(set(order.ravel().tolist())) == order.size
    assert 0 <= order.min() <= order.max() < samples
    permutation = np.random.default_rng([seed, epoch]).permutation(samples)
    np.testing.assert_array_equal(order.ravel(), permutation[: order.size])


def test_every_step_of_a_run_has_its_batch() -> None:
    """Written out: an epoch is one permutation, and a batch is the next part of it."""
    seed, samples, batch_size, steps = 3, 50, 8, 6
    permutations = [np.random.default_rng([seed, epoch]).permutation(50) for epoch in (1, 2, 3)]
    for taken in range(3 * steps):
        epoch, step = data.data_position(taken, samples, batch_size)
        assert (epoch, step) == (1 + taken // 6, taken % 6)
        found = data.epoch_order(seed, epoch, samples, batch_size)[step]
        first = 8 * (taken % 6)
        np.testing.assert_array_equal(found, permutations[taken // 6][first : first + 8])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_parts_of_all_processes_make_up_the_batch(processes: int) -> None:
    order = data.epoch_order(0, 1, 100, 8)
    parts = [data.process_rows(order, i, processes) for i in range(processes)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), order)


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, got 8"):
        data.process_rows(np.arange(8), 0, 3)


IMAGE = np.arange(1, 6 * 6 * 2 + 1, dtype=np.float32).reshape(6, 6, 2) / 100


@pytest.mark.slow
def test_a_crop_is_one_of_the_windows_of_the_padded_image() -> None:
    padded = np.pad(IMAGE, ((4, 4), (4, 4), (0, 0)))
    windows = {padded[i : i + 6, j : j + 6].tobytes(): (i, j) for i in range(9) for j in range(9)}
    keys = jax.random.split(jax.random.key(0), 2000)
    crops = jax.jit(jax.vmap(augmentation.random_crop, (0, None)))(keys, IMAGE)
    found = [windows[np.asarray(crop).tobytes()] for crop in crops]
    counts = np.array([found.count((i, j)) for i in range(9) for j in range(9)])
    assert counts.min() >= 8  # all 81 are drawn, 24.7 times each on average
    assert counts.max() <= 48


def test_a_flip_mirrors_half_of_the_images() -> None:
    keys = jax.random.split(jax.random.key(0), 1000)
    flips = np.asarray(jax.vmap(augmentation.random_flip, (0, None))(keys, jnp.asarray(IMAGE)))
    mirrored = (flips == IMAGE[:, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (flips == IMAGE).all(axis=(1, 2, 3))).all()
    assert 430 < mirrored.sum() < 570


@pytest.mark.slow
def test_crop_and_flip_are_drawn_independently() -> None:
    """Mirrored images are cropped in as many ways as others."""
    keys = jax.random.split(jax.random.key(1), 500)
    images = np.asarray(
        jax.vmap(augmentation.random_crop_flip, (0, None))(keys, jnp.asarray(IMAGE))
    )
    assert len({image.tobytes() for image in images}) > 140  # of 162


@pytest.fixture(scope="module")
def noise() -> Dataset:
    """Images so large that no crop is black, and no two are alike."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((40, 8, 8, 3), np.float32), np.arange(40, dtype=np.int32) % 3
    return Dataset("noise", images[:38], labels[:38], images[38:], labels[38:], classes=3)


@pytest.fixture(scope="module")
def feed(noise: Dataset) -> data.Feed:
    return data.Feed(noise, augmentation="crop-flip", normalise=True, seed=5)


@pytest.fixture(scope="module")
def batch(feed: data.Feed) -> Any:
    return jax.jit(feed.batch)


ROWS = np.array([3, 1, 30, 7, 8, 9, 2, 0], np.int32)


def test_a_batch_is_augmented_and_normalised(noise: Dataset, feed: data.Feed, batch: Any) -> None:
    images, labels = batch(feed.train, ROWS, 11)
    np.testing.assert_array_equal(labels, noise.train_labels[ROWS])
    for place, row in enumerate(ROWS):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 11), place)
        changed = augmentation.random_crop_flip(key, jnp.asarray(noise.train_images[row]))
        want = (np.asarray(changed) - noise.channel_mean) / noise.channel_std
        np.testing.assert_allclose(images[place], want, rtol=1e-6)


def test_a_batch_depends_on_seed_and_step(noise: Dataset, feed: data.Feed, batch: Any) -> None:
    first, _ = batch(feed.train, ROWS, 0)
    np.testing.assert_array_equal(first, batch(feed.train, ROWS, 0)[0])
    assert (first != batch(feed.train, ROWS, 1)[0]).any()
    other = data.Feed(noise, augmentation="crop-flip", normalise=True, seed=6)
    assert (first != jax.jit(other.batch)(other.train, ROWS, 0)[0]).any()


def test_parts_of_a_batch_are_changed_as_in_the_whole(feed: data.Feed, batch: Any) -> None:
    whole, _ = batch(feed.train, ROWS, 4)
    parts = [batch(feed.train, ROWS[i : i + 4], 4, i)[0] for i in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_normalised_training_images_have_mean_0_and_deviation_1(
    noise: Dataset, feed: data.Feed
) -> None:
    scaled = np.asarray(feed.normalise(feed.train.images), np.float64)
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-6)
    plain = data.Feed(noise)
    images, _ = plain.batch(plain.train, ROWS, 0)
    np.testing.assert_array_equal(images, noise.train_images[ROWS])


def test_a_constant_channel_is_left_alone(tiny_dataset: Dataset) -> None:
    grey = replace(tiny_dataset, train_images=np.full((38, 2, 2, 1), 0.5, np.float32))
    feed = data.Feed(grey, normalise=True)
    np.testing.assert_array_equal(feed.normalise(feed.train.images), 0)


def test_the_training_part_is_no_constant_of_the_program(feed: data.Feed) -> None:
    program = jax.jit(feed.batch).lower(feed.train, ROWS, 0).compile()
    analysis = program.memory_analysis()
    assert analysis is not None
    assert analysis.argument_size_in_bytes >= feed.train.images.nbytes


def test_an_unknown_augmentation(tiny_dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"Invalid augmentation: 'mixup'\. Supported: none, crop,"):
        data.Feed(tiny_dataset, augmentation="mixup")
