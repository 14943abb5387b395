"""Data sets: content and split."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gtddp_lab import data


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load_dataset("digits")


def test_digits_are_images_in_the_unit_range(digits: data.Dataset) -> None:
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.validation_images.shape == (360, 8, 8, 1)
    assert digits.train_images.max() == 1.0
    assert digits.train_images.min() == 0.0


def test_the_split_is_a_partition(digits: data.Dataset) -> None:
    parts = np.concatenate([digits.train_images, digits.validation_images]).reshape(-1, 64)
    labels = np.concatenate([digits.train_labels, digits.validation_labels])
    pixels, classes = map(np.asarray, load_digits(return_X_y=True))
    ours = np.column_stack([parts * 16, labels])
    theirs = np.column_stack([pixels, classes])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_the_split_is_stratified(digits: data.Dataset) -> None:
    train = np.bincount(digits.train_labels, minlength=10)
    validation = np.bincount(digits.validation_labels, minlength=10)
    np.testing.assert_allclose(validation, (train + validation) / 5, atol=1)


SPLIT = {
    "train": "3bb42ca797b17d0a0a6a034189f35c1031acc457e0dd365695d8420b6dabaf9e",
    "validation": "f83b7814d4e21ab5e129f5b8843f430316845b840c3468357e0a1c50065959f3",
}
"""SHA-256 of the indices of both parts in scikit-learn's order, as 32-bit numbers."""


def test_the_split_never_changes(digits: data.Dataset) -> None:
    """The parts are those of the published results, image by image."""
    pixels, classes = map(np.asarray, load_digits(return_X_y=True))
    places = {tuple(row): place for place, row in enumerate(pixels.astype(int).tolist())}
    assert len(places) == 1797  # no two images are alike
    for part, expected in SPLIT.items():
        images, labels = getattr(digits, f"{part}_images"), getattr(digits, f"{part}_labels")
        rows = np.rint(16 * images).astype(int).reshape(len(images), -1)
        indices = np.array([places[tuple(row)] for row in rows.tolist()], "<i4")
        assert hashlib.sha256(indices.tobytes()).hexdigest() == expected
        np.testing.assert_array_equal(labels, classes[indices])


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"Invalid dataset: 'emnist'\. Supported: digits, mnist"):
        data.load_dataset("emnist")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((38, 4), np.float32)}, "train images must have shape"),
        ({"train_labels": np.zeros(3, np.int32)}, "train images must have shape"),
        ({"validation_labels": np.zeros(12, np.int64)}, "validation images must be float32"),
        ({"train_images": np.full((38, 2, 2, 1), 255, np.float32)}, "must lie in"),
        ({"classes": 2}, r"train labels must lie in \[0, 2\)"),
    ],
)
def test_a_dataset_checks_itself(
    tiny_dataset: data.Dataset, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_dataset, **change)
