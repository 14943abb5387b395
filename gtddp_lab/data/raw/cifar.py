"""CIFAR-10 and CIFAR-100 in the Python and the binary version, from a folder or an archive."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gtddp_lab.data.dataset import DataError
from gtddp_lab.data.raw import pickles
from gtddp_lab.data.raw.examples import Examples, RawSet
from gtddp_lab.data.raw.original_files import Distribution, OriginalFile

IMAGE_BYTES = 3 * 32 * 32
"""Bytes per image: the red, the green and the blue plane, each row by row."""

CIFAR_SHAPE = (32, 32, 3)


def _planes_to_images(planes: np.ndarray) -> np.ndarray:
    """Convert colour planes [N, 3072] to images [N, 32, 32, 3]."""
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class CifarLayout:
    """What the two versions of a data set have in common.

    Attributes:
        splits: File names without extension, by split.
        classes: Number of classes by label, in the order of the label bytes of the binary version.
        keys: Key of each label in the Python version.
        name_keys: Key of each label's class names in the Python version's file of names.
    """

    splits: dict[str, tuple[str, ...]]
    classes: dict[str, int]
    keys: dict[str, bytes]
    name_keys: dict[str, bytes]


@dataclass(frozen=True)
class CifarBinaryReader:
    """The binary version: records of label bytes and 3072 pixel bytes.

    Attributes:
        distribution: The files.
        layout: What both versions have in common.
        name_files: Text file with the class names, by label.
    """

    distribution: Distribution
    layout: CifarLayout
    name_files: dict[str, str]

    def read(self, folder: Path, custom_data: bool) -> RawSet:
        """Read both splits, as required by ``Reader``."""
        contents = self.distribution.read(folder, custom_data)
        splits = {
            split: _concatenate_examples(
                [self._read_file(contents, folder, f"{stem}.bin") for stem in stems]
            )
            for split, stems in self.layout.splits.items()
        }
        names = {
            label: [name for name in contents[file].decode("utf-8", "replace").split("\n") if name]
            for label, file in self.name_files.items()
            if file in contents
        }
        return RawSet(splits, names)

    def _read_file(self, contents: dict[str, bytes], folder: Path, name: str) -> Examples:
        content, label = contents[name], folder / name
        record_size = len(self.layout.classes) + IMAGE_BYTES
        if len(content) % record_size:
            raise DataError(
                f"{label}: is truncated or not a CIFAR file: {len(content)} bytes are not a "
                f"multiple of the record size {record_size}."
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, record_size)
        # The label bytes come first, then the colour planes.
        labels = {key: records[:, column] for column, key in enumerate(self.layout.classes)}
        images = _planes_to_images(records[:, len(labels) :])
        return Examples(images, labels).checked(label, CIFAR_SHAPE, self.layout.classes)


@dataclass(frozen=True)
class CifarPythonReader:
    """The Python version: pickled dicts with ``data`` [N, 3072] and lists of labels.

    Attributes:
        distribution: The files.
        layout: What both versions have in common.
        name_file: Pickle with the class names.
    """

    distribution: Distribution
    layout: CifarLayout
    name_file: str

    def read(self, folder: Path, custom_data: bool) -> RawSet:
        """Read both splits, as required by ``Reader``."""
        contents = self.distribution.read(folder, custom_data)
        splits = {
            split: _concatenate_examples(
                [self._read_file(contents, folder, stem) for stem in stems]
            )
            for split, stems in self.layout.splits.items()
        }
        if self.name_file not in contents:
            return RawSet(splits)
        entries = pickles.load_restricted_pickle(contents[self.name_file], folder / self.name_file)
        names = {
            label: [_decode_name(name) for name in entries[key]]
            for label, key in self.layout.name_keys.items()
            if isinstance(entries.get(key), list)
        }
        return RawSet(splits, names)

    def _read_file(self, contents: dict[str, bytes], folder: Path, name: str) -> Examples:
        label = folder / name
        entries = pickles.load_restricted_pickle(contents[name], label)
        planes = entries.get(b"data")
        if not isinstance(planes, np.ndarray) or planes.ndim != 2 or planes.shape[1] != IMAGE_BYTES:
            raise DataError(
                f"{label}: its entry 'data' must be an array of shape [N, {IMAGE_BYTES}]."
            )
        labels = {}
        for key, entry in self.layout.keys.items():
            values = entries.get(entry)
            # Exact type: a bool is an int, too, but not a label.
            if not isinstance(values, list) or not all(type(value) is int for value in values):
                raise DataError(f"{label}: its entry {entry.decode()!r} must be a list of numbers.")
            labels[key] = np.array(values, np.int64)
        return Examples(_planes_to_images(planes), labels).checked(
            label, CIFAR_SHAPE, self.layout.classes
        )


def _concatenate_examples(parts: list[Examples]) -> Examples:
    labels = {key: np.concatenate([part.labels[key] for part in parts]) for key in parts[0].labels}
    return Examples(np.concatenate([part.images for part in parts]), labels)


def _decode_name(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


CIFAR10_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10_LAYOUT = CifarLayout(
    splits={"train": CIFAR10_BATCHES, "test": ("test_batch",)},
    classes={"label": 10},
    keys={"label": b"labels"},
    name_keys={"label": b"label_names"},
)
CIFAR100_LAYOUT = CifarLayout(
    splits={"train": ("train",), "test": ("test",)},
    classes={"coarse_label": 20, "label": 100},
    keys={"coarse_label": b"coarse_labels", "label": b"fine_labels"},
    name_keys={"coarse_label": b"coarse_label_names", "label": b"fine_label_names"},
)

CIFAR10_READERS = (
    CifarPythonReader(
        Distribution(
            (
                OriginalFile("data_batch_1", md5="c99cafc152244af753f735de768cd75f"),
                OriginalFile("data_batch_2", md5="d4bba439e000b95fd0a9bffe97cbabec"),
                OriginalFile("data_batch_3", md5="54ebc095f3ab1f0389bbae665268c751"),
                OriginalFile("data_batch_4", md5="634d18415352ddfa80567beed471001a"),
                OriginalFile("data_batch_5", md5="482c414d41f54cd18b22e5b47cb7c3cb"),
                OriginalFile("test_batch", md5="40351d587109b95175f43aff81a1287e"),
                OriginalFile(
                    "batches.meta", md5="5ff9c542aee3614f3951f8cda6e48888", required=False
                ),
            ),
            subfolder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            archive_md5="c58f30108f718f92721af3b95e74349a",
        ),
        CIFAR10_LAYOUT,
        name_file="batches.meta",
    ),
    CifarBinaryReader(
        Distribution(
            (
                OriginalFile("data_batch_1.bin", 30_730_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
                OriginalFile("data_batch_2.bin", 30_730_000, "5ea93a67294ea407fff1d09f752e9692"),
                OriginalFile("data_batch_3.bin", 30_730_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
                OriginalFile("data_batch_4.bin", 30_730_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
                OriginalFile("data_batch_5.bin", 30_730_000, "53f37980c15c3d472c316c40844f3f0d"),
                OriginalFile("test_batch.bin", 30_730_000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
                OriginalFile("batches.meta.txt", required=False),
            ),
            subfolder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
        ),
        CIFAR10_LAYOUT,
        name_files={"label": "batches.meta.txt"},
    ),
)
"""Readers of the two versions of CIFAR-10."""

CIFAR100_READERS = (
    CifarPythonReader(
        Distribution(
            (
                OriginalFile("train", md5="16019d7e3df5f24257cddd939b257f8d"),
                OriginalFile("test", md5="f0ef6b0ae62326f3e7ffdfab6717acfc"),
                OriginalFile("meta", md5="7973b15100ade9c7d40fb424638fde48", required=False),
            ),
            subfolder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        ),
        CIFAR100_LAYOUT,
        name_file="meta",
    ),
    CifarBinaryReader(
        Distribution(
            (
                OriginalFile("train.bin", 153_700_000),
                OriginalFile("test.bin", 30_740_000),
                OriginalFile("coarse_label_names.txt", required=False),
                OriginalFile("fine_label_names.txt", required=False),
            ),
            subfolder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            archive_md5="03b5dce01913d631647c71ecec9e9cb8",
        ),
        CIFAR100_LAYOUT,
        name_files={
            "coarse_label": "coarse_label_names.txt",
            "label": "fine_label_names.txt",
        },
    ),
)
"""Readers of the two versions of CIFAR-100.

The checksums of the binary files are not known for certain, so only their sizes are checked.
"""
