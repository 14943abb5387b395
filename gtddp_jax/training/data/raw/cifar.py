"""CIFAR-10 and CIFAR-100, in the python and the binary form, from a folder or the archive."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gtddp_jax.training.data.dataset import DataError
from gtddp_jax.training.data.raw import pickles
from gtddp_jax.training.data.raw.examples import Examples, RawSet
from gtddp_jax.training.data.raw.files import Distribution, File

PIXELS = 3 * 32 * 32
"""Bytes of an image: the red plane, the green one and the blue one, row by row."""

SHAPE = (32, 32, 3)


def _images(planes: np.ndarray) -> np.ndarray:
    """Colour planes [N, 3072] to images [N, 32, 32, 3]."""
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Layout:
    """What the two forms of a set have in common.

    Attributes:
        splits: File names without ending by split.
        classes: Number of classes by label, in the order of the binary form's leading bytes.
        keys: The python form's key of every label.
        name_keys: The python form's key of every label's names, in its file of names.
    """

    splits: dict[str, tuple[str, ...]]
    classes: dict[str, int]
    keys: dict[str, bytes]
    name_keys: dict[str, bytes]


@dataclass(frozen=True)
class Binary:
    """Records of label bytes and 3072 pixel bytes.

    Attributes:
        distribution: Its files.
        layout: What the set's two forms have in common.
        name_files: The text file of every label's names.
    """

    distribution: Distribution
    layout: Layout
    name_files: dict[str, str]

    def read(self, folder: Path, own: bool) -> RawSet:
        """Reads both splits; see ``Reader``."""
        contents = self.distribution.read(folder, own)
        splits = {
            split: _joined([self._part(contents, folder, f"{stem}.bin") for stem in stems])
            for split, stems in self.layout.splits.items()
        }
        names = {
            label: [name for name in contents[file].decode("utf-8", "replace").split("\n") if name]
            for label, file in self.name_files.items()
            if file in contents
        }
        return RawSet(splits, names)

    def _part(self, contents: dict[str, bytes], folder: Path, name: str) -> Examples:
        content, label = contents[name], folder / name
        width = len(self.layout.classes) + PIXELS
        if len(content) % width:
            raise DataError(
                f"{label}: is cut off or no CIFAR file: {len(content)} bytes are no multiple of a "
                f"record's {width}."
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, width)
        labels = {key: records[:, i] for i, key in enumerate(self.layout.classes)}
        images = _images(records[:, len(labels) :])
        return Examples(images, labels).checked(label, SHAPE, self.layout.classes)


@dataclass(frozen=True)
class Python:
    """Pickled dicts with ``data`` [N, 3072] and lists of labels.

    Attributes:
        distribution: Its files.
        layout: What the set's two forms have in common.
        name_file: The pickle of the classes' names.
    """

    distribution: Distribution
    layout: Layout
    name_file: str

    def read(self, folder: Path, own: bool) -> RawSet:
        """Reads both splits; see ``Reader``."""
        contents = self.distribution.read(folder, own)
        splits = {
            split: _joined([self._part(contents, folder, stem) for stem in stems])
            for split, stems in self.layout.splits.items()
        }
        if self.name_file not in contents:
            return RawSet(splits)
        entries = pickles.load(contents[self.name_file], folder / self.name_file)
        names = {
            label: [_text(name) for name in entries[key]]
            for label, key in self.layout.name_keys.items()
            if isinstance(entries.get(key), list)
        }
        return RawSet(splits, names)

    def _part(self, contents: dict[str, bytes], folder: Path, name: str) -> Examples:
        label = folder / name
        entries = pickles.load(contents[name], label)
        planes = entries.get(b"data")
        if not isinstance(planes, np.ndarray) or planes.ndim != 2 or planes.shape[1] != PIXELS:
            raise DataError(f"{label}: its entry 'data' must be an array of shape [N, {PIXELS}].")
        labels = {}
        for key, entry in self.layout.keys.items():
            values = entries.get(entry)
            if not isinstance(values, list) or not all(type(value) is int for value in values):
                raise DataError(f"{label}: its entry {entry.decode()!r} must be a list of numbers.")
            labels[key] = np.array(values, np.int64)
        return Examples(_images(planes), labels).checked(label, SHAPE, self.layout.classes)


def _joined(parts: list[Examples]) -> Examples:
    labels = {key: np.concatenate([part.labels[key] for part in parts]) for key in parts[0].labels}
    return Examples(np.concatenate([part.images for part in parts]), labels)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEN = Layout(
    splits={"train": BATCHES, "test": ("test_batch",)},
    classes={"label": 10},
    keys={"label": b"labels"},
    name_keys={"label": b"label_names"},
)
HUNDRED = Layout(
    splits={"train": ("train",), "test": ("test",)},
    classes={"coarse_label": 20, "label": 100},
    keys={"coarse_label": b"coarse_labels", "label": b"fine_labels"},
    name_keys={"coarse_label": b"coarse_label_names", "label": b"fine_label_names"},
)

CIFAR10 = (
    Python(
        Distribution(
            (
                File("data_batch_1", md5="c99cafc152244af753f735de768cd75f"),
                File("data_batch_2", md5="d4bba439e000b95fd0a9bffe97cbabec"),
                File("data_batch_3", md5="54ebc095f3ab1f0389bbae665268c751"),
                File("data_batch_4", md5="634d18415352ddfa80567beed471001a"),
                File("data_batch_5", md5="482c414d41f54cd18b22e5b47cb7c3cb"),
                File("test_batch", md5="40351d587109b95175f43aff81a1287e"),
                File("batches.meta", md5="5ff9c542aee3614f3951f8cda6e48888", required=False),
            ),
            subfolder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            archive_md5="c58f30108f718f92721af3b95e74349a",
        ),
        TEN,
        name_file="batches.meta",
    ),
    Binary(
        Distribution(
            (
                File("data_batch_1.bin", 30_730_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
                File("data_batch_2.bin", 30_730_000, "5ea93a67294ea407fff1d09f752e9692"),
                File("data_batch_3.bin", 30_730_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
                File("data_batch_4.bin", 30_730_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
                File("data_batch_5.bin", 30_730_000, "53f37980c15c3d472c316c40844f3f0d"),
                File("test_batch.bin", 30_730_000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
                File("batches.meta.txt", required=False),
            ),
            subfolder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
        ),
        TEN,
        name_files={"label": "batches.meta.txt"},
    ),
)
"""The forms of CIFAR-10."""

CIFAR100 = (
    Python(
        Distribution(
            (
                File("train", md5="16019d7e3df5f24257cddd939b257f8d"),
                File("test", md5="f0ef6b0ae62326f3e7ffdfab6717acfc"),
                File("meta", md5="7973b15100ade9c7d40fb424638fde48", required=False),
            ),
            subfolder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        ),
        HUNDRED,
        name_file="meta",
    ),
    Binary(
        Distribution(
            (
                File("train.bin", 153_700_000),
                File("test.bin", 30_740_000),
                File("coarse_label_names.txt", required=False),
                File("fine_label_names.txt", required=False),
            ),
            subfolder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            archive_md5="03b5dce01913d631647c71ecec9e9cb8",
        ),
        HUNDRED,
        name_files={
            "coarse_label": "coarse_label_names.txt",
            "label": "fine_label_names.txt",
        },
    ),
)
"""The forms of CIFAR-100. The binary members' checksums are not known for certain: sizes only."""
