"""Data sets that fit in device memory, each with a fixed train/validation split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gtddp_jax.training.tables import look_up

SPLIT_SEED = 0
"""Seed of every split: never the run's, so that all runs are scored on the same images."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split into a training and a validation part.

    Attributes:
        name: Key in ``DATASETS``.
        train_images: Shape [N, height, width, channels], float32 in [0, 1].
        train_labels: Shape [N], int32 in [0, classes).
        validation_images: Like ``train_images``, shape [M, height, width, channels].
        validation_labels: Like ``train_labels``, shape [M].
        classes: Number of classes.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    classes: int

    def __post_init__(self) -> None:
        """Checks shapes, types and ranges.

        Raises:
            ValueError: If images and labels do not fit together or lie outside their ranges.
        """
        for part in ("train", "validation"):
            images: np.ndarray = getattr(self, f"{part}_images")
            labels: np.ndarray = getattr(self, f"{part}_labels")
            if images.ndim != 4 or labels.shape != images.shape[:1] or not len(images):
                raise ValueError(
                    f"{self.name}: {part} images must have shape [N, height, width, channels] and "
                    f"labels [N], got {images.shape} and {labels.shape}."
                )
            if images.dtype != np.float32 or labels.dtype != np.int32:
                raise ValueError(
                    f"{self.name}: {part} images must be float32 and labels int32, "
                    f"got {images.dtype} and {labels.dtype}."
                )
            if images.min() < 0 or images.max() > 1:
                raise ValueError(f"{self.name}: {part} images must lie in [0, 1].")
            if labels.min() < 0 or labels.max() >= self.classes:
                raise ValueError(f"{self.name}: {part} labels must lie in [0, {self.classes}).")


def digits() -> Dataset:
    """Loads scikit-learn's handwritten digits: 1797 grey images of 8x8 pixels in 10 classes.

    The split is stratified: 80 % training images, 20 % validation images of every class.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = map(np.asarray, load_digits(return_X_y=True))  # [1797, 64] in 0..16, [1797]
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = classes.astype(np.int32)
    train, validation = map(
        np.asarray,
        train_test_split(
            np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED
        ),
    )
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        validation_images=images[validation],
        validation_labels=labels[validation],
        classes=10,
    )


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits}


def load(name: str) -> Dataset:
    """Loads the data set called ``name``.

    Raises:
        ValueError: If ``name`` is not in ``DATASETS``.
    """
    return look_up(DATASETS, name, "dataset")()
