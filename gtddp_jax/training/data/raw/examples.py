"""What every reader of an original format returns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gtddp_jax.training.data.dataset import DataError
from gtddp_jax.training.data.raw.files import Distribution


@dataclass(frozen=True)
class Examples:
    """One split, as its files have it.

    Attributes:
        images: uint8 of shape [N, height, width, channels].
        labels: Label arrays [N] of integers by tfds feature name, ``"label"`` among them.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]

    def checked(self, path: object, shape: tuple[int, ...], classes: dict[str, int]) -> "Examples":
        """Returns itself, if images and labels fit together and the labels are in range.

        Args:
            path: Where the examples are from, for the error text.
            shape: Height, width and channels of an image.
            classes: Number of classes by label.

        Raises:
            DataError: If they do not.
        """
        if self.images.shape[1:] != shape or not len(self.images):
            size = "x".join(map(str, shape))
            raise DataError(f"{path}: images {size} are needed, got {self.images.shape}.")
        for name, labels in self.labels.items():
            if len(labels) != len(self.images):
                raise DataError(f"{path}: {len(self.images)} images, but {len(labels)} labels.")
            if labels.min() < 0 or labels.max() >= classes[name]:
                raise DataError(
                    f"{path}: {name} must lie in [0, {classes[name]}), "
                    f"got {labels.min()} to {labels.max()}."
                )
        return self


@dataclass(frozen=True)
class RawSet:
    """A data set as a folder has it.

    Attributes:
        splits: Examples by tfds split, ``"train"`` and ``"test"``.
        names: Names of the classes by label, where the files give them.
    """

    splits: dict[str, Examples]
    names: dict[str, list[str]] = field(default_factory=dict)


class Reader(Protocol):
    """One format of one data set."""

    @property
    def distribution(self) -> Distribution:
        """The files of the format, to be found in a folder."""
        ...

    def read(self, folder: Path, own: bool) -> RawSet:
        """Reads the set from a folder in which the distribution was found.

        Args:
            folder: The folder.
            own: Whether the files may be other data in the same format.

        Raises:
            DataError: If a file is missing, corrupt, cut off, hostile, or not the original.
        """
        ...
