"""The idx format of MNIST: a header with the array's shape, then its bytes."""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from gtddp_jax.training.data.dataset import DataError
from gtddp_jax.training.data.raw.examples import Examples, RawSet
from gtddp_jax.training.data.raw.files import Distribution, File

UNSIGNED_BYTE = 8
"""The header's code of the only element type that images and labels have."""

SPLITS = {"train": "train", "test": "t10k"}
"""Beginning of the files' names by split."""


def parse(content: bytes, label: object, axes: int) -> np.ndarray:
    """Reads one idx array of unsigned bytes.

    Args:
        content: The file's content: two zero bytes, type code, number of axes, each axis' length as
            a big-endian 32-bit number, then the elements, the last axis fastest.
        label: Where the content is from, for the error text.
        axes: How many axes the array must have.

    Returns:
        uint8, with the header's shape.

    Raises:
        DataError: If the header is not of that kind, or the elements are not as many as it says.

    >>> parse(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "example", axes=1)
    array([7, 8, 9], dtype=uint8)
    """
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{label}: is cut off in its header.")
    if content[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
        raise DataError(
            f"{label}: is no idx file of unsigned bytes with {axes} axes "
            f"(begins with {content[:4].hex(' ')})."
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    elements, found = prod(shape), len(content) - start
    if found != elements:
        state = "is cut off" if found < elements else "has bytes left over"
        raise DataError(
            f"{label}: {state}: its header says {elements} bytes, but {found} follow it."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@dataclass(frozen=True)
class Idx:
    """Grey images of 28x28 pixels and ten classes in four idx files."""

    distribution: Distribution

    def read(self, folder: Path, own: bool) -> RawSet:
        """Reads both splits; see ``Reader``."""
        contents = self.distribution.read(folder, own)
        splits = {}
        for split, stem in SPLITS.items():
            images, labels = f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"
            examples = Examples(
                parse(contents[images], folder / images, axes=3)[..., None],
                {"label": parse(contents[labels], folder / labels, axes=1)},
            )
            splits[split] = examples.checked(folder / images, (28, 28, 1), {"label": 10})
        return RawSet(splits)


def _four_files(train: tuple[str, str], test: tuple[str, str]) -> Distribution:
    return Distribution(
        (
            File("train-images-idx3-ubyte", 47_040_016, train[0]),
            File("train-labels-idx1-ubyte", 60_008, train[1]),
            File("t10k-images-idx3-ubyte", 7_840_016, test[0]),
            File("t10k-labels-idx1-ubyte", 10_008, test[1]),
        )
    )


MNIST = Idx(
    _four_files(
        train=("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        test=("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    )
)
FASHION_MNIST = Idx(
    _four_files(
        train=("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
        test=("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    )
)
