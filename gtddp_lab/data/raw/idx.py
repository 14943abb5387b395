"""The idx format of MNIST: a header with the array's shape, then its bytes."""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from gtddp_lab.data.dataset import DataError
from gtddp_lab.data.raw.examples import Examples, RawSet
from gtddp_lab.data.raw.original_files import Distribution, OriginalFile

UNSIGNED_BYTE = 8
"""Header code of the element type, which images and labels share."""

IDX_SPLIT_PREFIXES = {"train": "train", "test": "t10k"}
"""First part of the file names, by split."""


def parse_idx_array(content: bytes, label: object, axes: int) -> np.ndarray:
    """Parse one idx array of unsigned bytes.

    Args:
        content: Content of the file: two zero bytes, type code, number of axes, length of each axis
            as a big-endian 32-bit number, then the elements in C order.
        label: Origin of the content, for the error message.
        axes: Required number of axes.

    Returns:
        uint8 array of the shape given in the header.

    Raises:
        DataError: If the header is wrong or the number of elements does not match it.

    >>> parse_idx_array(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "example", axes=1)
    array([7, 8, 9], dtype=uint8)
    """
    # The header: four bytes, then one 32-bit length per axis.
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{label}: is truncated in its header.")
    if content[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
        raise DataError(
            f"{label}: is not an idx file of unsigned bytes with {axes} axes "
            f"(it begins with {content[:4].hex(' ')})."
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    # Python integers: NumPy would overflow for a hostile shape.
    elements, found = prod(shape), len(content) - start
    if found != elements:
        state = "is truncated" if found < elements else "has bytes left over"
        raise DataError(
            f"{label}: {state}: its header announces {elements} bytes, but {found} follow."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@dataclass(frozen=True)
class IdxReader:
    """Reads grey images of 28x28 pixels and ten classes from four idx files."""

    distribution: Distribution

    def read(self, folder: Path, custom_data: bool) -> RawSet:
        """Read both splits, as required by ``Reader``."""
        contents = self.distribution.read(folder, custom_data)
        splits = {}
        for split, stem in IDX_SPLIT_PREFIXES.items():
            images, labels = f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"
            examples = Examples(
                parse_idx_array(contents[images], folder / images, axes=3)[..., None],
                {"label": parse_idx_array(contents[labels], folder / labels, axes=1)},
            )
            splits[split] = examples.checked(folder / images, (28, 28, 1), {"label": 10})
        return RawSet(splits)


def _idx_files(train: tuple[str, str], test: tuple[str, str]) -> Distribution:
    return Distribution(
        (
            OriginalFile("train-images-idx3-ubyte", 47_040_016, train[0]),
            OriginalFile("train-labels-idx1-ubyte", 60_008, train[1]),
            OriginalFile("t10k-images-idx3-ubyte", 7_840_016, test[0]),
            OriginalFile("t10k-labels-idx1-ubyte", 10_008, test[1]),
        )
    )


MNIST_READER = IdxReader(
    _idx_files(
        train=("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        test=("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    )
)
FASHION_MNIST_READER = IdxReader(
    _idx_files(
        train=("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
        test=("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    )
)
