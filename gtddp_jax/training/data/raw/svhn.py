"""SVHN's cropped digits: two MATLAB files with images X [32, 32, 3, N] and labels y [N, 1]."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtddp_jax.training.data.dataset import DataError
from gtddp_jax.training.data.raw.examples import Examples, RawSet
from gtddp_jax.training.data.raw.files import MAX_BYTES, Distribution, File

SPLITS = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
"""File name by split. The third file of the original, ``extra_32x32.mat``, is not read."""

SHAPE = (32, 32, 3)


def parse(content: bytes, label: object) -> Examples:
    """Reads one file; the original numbers the digit zero as 10.

    Raises:
        DataError: If it is no such MATLAB file.
    """
    from scipy.io import loadmat, whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(content))}
        images = shapes.get("X", ())
        if images[:3] != SHAPE or len(images) != 4 or shapes.get("y") != (images[3], 1):
            raise DataError(
                f"{label}: must hold X [32, 32, 3, N] and y [N, 1], holds "
                + (
                    ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
                    or "nothing"
                )
                + "."
            )
        if np.prod(images, dtype=float) > MAX_BYTES:
            raise DataError(f"{label}: refused, because it claims {images[3]} images.")
        variables = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        x, y = variables["X"], variables["y"]
    except DataError:
        raise
    except NotImplementedError as error:
        raise DataError(
            f"{label}: is of MATLAB's version 7.3, the original is of version 5."
        ) from error
    except Exception as error:  # a damaged file may fail in any way
        raise DataError(f"{label}: is cut off or corrupt ({error}).") from error
    if x.dtype != np.uint8 or y.dtype.kind not in "iuf":
        raise DataError(f"{label}: X must be uint8 and y numbers, got {x.dtype} and {y.dtype}.")
    digits = y[:, 0].astype(np.int64)
    if digits.min() < 1:
        raise DataError(f"{label}: label must lie in [1, 10], got {digits.min()}.")
    labels = {"label": np.where(digits == 10, 0, digits)}
    return Examples(x.transpose(3, 0, 1, 2), labels).checked(label, SHAPE, {"label": 10})


@dataclass(frozen=True)
class Svhn:
    """Colour images of 32x32 pixels and ten classes in two MATLAB files."""

    distribution: Distribution

    def read(self, folder: Path, own: bool) -> RawSet:
        """Reads both splits; see ``Reader``."""
        contents = self.distribution.read(folder, own)
        return RawSet(
            {split: parse(contents[name], folder / name) for split, name in SPLITS.items()}
        )


SVHN_CROPPED = Svhn(
    Distribution(
        (
            File("train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            File("test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        )
    )
)
