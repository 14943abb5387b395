"""The cropped digits of SVHN: MATLAB files with images X [32, 32, 3, N] and labels y [N, 1]."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtddp_lab.data.dataset import DataError
from gtddp_lab.data.raw.examples import Examples, RawSet
from gtddp_lab.data.raw.original_files import MAX_BYTES, Distribution, OriginalFile

SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
"""File name by split. The third original file, ``extra_32x32.mat``, is not read."""

SVHN_SHAPE = (32, 32, 3)


def parse_svhn_file(content: bytes, label: object) -> Examples:
    """Parse one file. The original labels the digit zero as 10.

    Raises:
        DataError: If the file is not such a MATLAB file.
    """
    from scipy.io import loadmat, whosmat

    try:
        # The header alone is read first, so that a hostile size allocates nothing.
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(content))}
        images = shapes.get("X", ())
        if images[:3] != SVHN_SHAPE or len(images) != 4 or shapes.get("y") != (images[3], 1):
            raise DataError(
                f"{label}: must hold X [32, 32, 3, N] and y [N, 1], but holds "
                + (
                    ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
                    or "nothing"
                )
                + "."
            )
        if np.prod(images, dtype=float) > MAX_BYTES:
            raise DataError(f"{label}: refused because it claims {images[3]} images.")
        variables = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        pixels, numbers = variables["X"], variables["y"]
    except DataError:
        raise
    except NotImplementedError as error:
        raise DataError(f"{label}: has MATLAB format 7.3; the original has format 5.") from error
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{label}: is truncated or corrupt ({error}).") from error
    if pixels.dtype != np.uint8 or numbers.dtype.kind not in "iuf":
        raise DataError(
            f"{label}: X must be uint8 and y numeric, got {pixels.dtype} and {numbers.dtype}."
        )
    digits = numbers[:, 0].astype(np.int64)
    if digits.min() < 1:
        raise DataError(f"{label}: labels must lie in [1, 10], got {digits.min()}.")
    # The original labels the digit zero as 10.
    labels = {"label": np.where(digits == 10, 0, digits)}
    return Examples(pixels.transpose(3, 0, 1, 2), labels).checked(label, SVHN_SHAPE, {"label": 10})


@dataclass(frozen=True)
class SvhnReader:
    """Reads colour images of 32x32 pixels and ten classes from two MATLAB files."""

    distribution: Distribution

    def read(self, folder: Path, custom_data: bool) -> RawSet:
        """Read both splits, as required by ``Reader``."""
        contents = self.distribution.read(folder, custom_data)
        return RawSet(
            {
                split: parse_svhn_file(contents[name], folder / name)
                for split, name in SVHN_FILES.items()
            }
        )


SVHN_READER = SvhnReader(
    Distribution(
        (
            OriginalFile("train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            OriginalFile("test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        )
    )
)
