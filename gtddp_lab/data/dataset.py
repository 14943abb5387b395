"""`Dataset`: labelled images in memory, the form of every loaded data set."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


class DataError(ValueError):
    """A data set is missing or its files are wrong. The message is one line."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split into a training and a validation part.

    Attributes:
        name: Key in ``DATASETS``.
        train_images: Shape [N, height, width, channels], float32 in [0, 1].
        train_labels: Shape [N], int32 in [0, classes); [N, T] if a sample has T labels.
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
        """Check shapes, dtypes and ranges.

        Raises:
            ValueError: If images and labels do not match or lie outside their ranges.
        """
        for split in ("train", "validation"):
            images: np.ndarray = getattr(self, f"{split}_images")
            labels: np.ndarray = getattr(self, f"{split}_labels")
            matching = labels.ndim in (1, 2) and labels.shape[:1] == images.shape[:1]
            if images.ndim != 4 or not matching or not labels.size:
                raise ValueError(
                    f"{self.name}: {split} images must have shape [N, height, width, channels] and "
                    f"labels [N] or [N, T], got {images.shape} and {labels.shape}."
                )
            if images.dtype != np.float32 or labels.dtype != np.int32:
                raise ValueError(
                    f"{self.name}: {split} images must be float32 and labels int32, "
                    f"got {images.dtype} and {labels.dtype}."
                )
            if images.min() < 0 or images.max() > 1:
                raise ValueError(f"{self.name}: {split} images must lie in [0, 1].")
            if labels.min() < 0 or labels.max() >= self.classes:
                raise ValueError(f"{self.name}: {split} labels must lie in [0, {self.classes}).")

    @cached_property
    def channel_mean(self) -> np.ndarray:
        """Mean of each channel over the training images: float32 [channels]."""
        return self.train_images.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)

    @cached_property
    def channel_std(self) -> np.ndarray:
        """Standard deviation of each channel over the training images: float32 [channels].

        It is 1 for a constant channel, so that division by it is safe.
        """
        # One channel at a time, because the float64 copy of all images could exhaust memory.
        channels = np.moveaxis(self.train_images, -1, 0)
        std = np.array([channel.std(dtype=np.float64) for channel in channels], np.float32)
        # A constant channel is only shifted.
        return np.where(std > 0, std, np.float32(1))
