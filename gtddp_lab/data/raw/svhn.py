"""The cropped digits of SVHN: MATLAB files with images X [32, 32, 3, N] and labels y [N, 1]."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from gtddp_lab.data.dataset import DataError
from gtddp_lab.data.raw import matlab
from gtddp_lab.data.raw.examples import Examples, RawSet
from gtddp_lab.data.raw.original_files import MAX_BYTES, Distribution, OriginalFile

SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
"""File name by split. The third original file, ``extra_32x32.mat``, is not read."""

SVHN_SHAPE = (32, 32, 3)


def parse_svhn_file(content: bytes, label: object, limit: int = MAX_BYTES) -> Examples:
    """Parse one file. The original labels the digit zero as 10.

    Args:
        content: Content of the file.
        label: Origin of the content, for the error message.
        limit: Largest number of bytes to unpack.

    Raises:
        DataError: If the file is not such a MATLAB file, or unpacks to more.
    """
    try:
        # The heads alone are read first, so that a hostile size allocates nothing.
        variables = matlab.list_variables(content)
        _check_variables(variables, label)
        images, numbers = variables["X"], variables["y"]
        if prod(images.shape) > limit:
            raise DataError(f"{label}: refused because it claims {images.shape[3]} images.")
        with np.errstate(invalid="ignore"):  # a label that is no number becomes negative
            digits = numbers.read(limit)[:, 0].astype(np.int64)
        pixels = images.read(limit)
    except NotImplementedError as error:
        raise DataError(f"{label}: has MATLAB format 7.3; the original has format 5.") from error
    except (matlab.MatlabError, zlib.error) as error:
        raise DataError(f"{label}: is truncated or corrupt ({error}).") from error
    if digits.min(initial=1) < 1:
        raise DataError(f"{label}: labels must lie in [1, 10], got {digits.min()}.")
    # The original labels the digit zero as 10.
    labels = {"label": np.where(digits == 10, 0, digits)}
    return Examples(pixels.transpose(3, 0, 1, 2), labels).checked(label, SVHN_SHAPE, {"label": 10})


def _check_variables(variables: Mapping[str, matlab.MatlabVariable], label: object) -> None:
    """Check names, shapes and classes.

    Raises:
        DataError: If they are not those of SVHN.
    """
    shapes = {name: variable.shape for name, variable in variables.items()}
    images = shapes.get("X", ())
    if images[:3] != SVHN_SHAPE or len(images) != 4 or shapes.get("y") != (images[3], 1):
        found = ", ".join(f"{name:.40} {list(shape)}" for name, shape in shapes.items())
        raise DataError(
            f"{label}: must hold X [32, 32, 3, N] and y [N, 1], but holds {found or 'nothing'}."
        )
    classes = variables["X"].class_name, variables["y"].class_name
    if classes[0] != "uint8" or classes[1] == "other":
        raise DataError(
            f"{label}: X must be uint8 and y numeric, got {classes[0]} and {classes[1]}."
        )


@dataclass(frozen=True)
class SvhnReader:
    """Reads colour images of 32x32 pixels and ten classes from two MATLAB files."""

    distribution: Distribution

    def read(self, folder: Path, custom_data: bool) -> RawSet:
        """Read both splits, as required by ``Reader``."""
        contents = self.distribution.read(folder, custom_data)
        left = MAX_BYTES - sum(map(len, contents.values()))
        splits: dict[str, Examples] = {}
        for split, name in SVHN_FILES.items():
            splits[split] = parse_svhn_file(contents[name], folder / name, left)
            left -= splits[split].images.nbytes
        return RawSet(splits)


SVHN_READER = SvhnReader(
    Distribution(
        (
            OriginalFile("train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            OriginalFile("test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        )
    )
)
