"""Data sets: content and split."""

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


def test_the_split_never_changes(digits: data.Dataset) -> None:
    again = data.load_dataset("digits")
    np.testing.assert_array_equal(digits.train_images, again.train_images)
    np.testing.assert_array_equal(digits.validation_labels, again.validation_labels)


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
