"""`Examples`, `RawSet` and `Reader`: the contract of the readers of original formats."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gtddp_lab.data.dataset import DataError
from gtddp_lab.data.raw.original_files import Distribution


@dataclass(frozen=True)
class Examples:
    """One split, as stored in its files.

    Attributes:
        images: uint8 of shape [N, height, width, channels].
        labels: Integer labels [N] by feature name of tensorflow-datasets; one is ``"label"``.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]

    def checked(self, path: object, shape: tuple[int, ...], classes: dict[str, int]) -> "Examples":
        """Return the examples unchanged, after checking shapes and the range of the labels.

        Args:
            path: Origin of the examples, for the error message.
            shape: Height, width and channels of an image.
            classes: Number of classes by label.

        Raises:
            DataError: If a check fails.
        """
        if self.images.shape[1:] != shape or not len(self.images):
            size = "x".join(map(str, shape))
            raise DataError(f"{path}: images must be {size}, got shape {self.images.shape}.")
        for name, labels in self.labels.items():
            if len(labels) != len(self.images):
                raise DataError(f"{path}: {len(self.images)} images but {len(labels)} labels.")
            if labels.min() < 0 or labels.max() >= classes[name]:
                raise DataError(
                    f"{path}: {name} must lie in [0, {classes[name]}), "
                    f"got {labels.min()} to {labels.max()}."
                )
        return self


@dataclass(frozen=True)
class RawSet:
    """A data set as stored in a folder.

    Attributes:
        splits: Examples by split, ``"train"`` and ``"test"``.
        names: Class names by label, if the files contain them.
    """

    splits: dict[str, Examples]
    names: dict[str, list[str]] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one format of one data set."""

    @property
    def distribution(self) -> Distribution:
        """The files of the format."""
        ...

    def read(self, folder: Path, custom_data: bool) -> RawSet:
        """Read the data set from a folder in which the distribution was found.

        Args:
            folder: The folder.
            custom_data: Whether the files may hold other data in the same format.

        Raises:
            DataError: If a file is missing, corrupt, truncated, hostile, or not the original.
        """
        ...
