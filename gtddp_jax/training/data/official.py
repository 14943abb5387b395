"""The data sets of the paper and its relatives that do not come with a Python package."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gtddp_jax.training.data import store
from gtddp_jax.training.data.dataset import DataError, Dataset
from gtddp_jax.training.data.raw import READERS, RawSet

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""


@dataclass(frozen=True)
class Official:
    """A set of tensorflow-datasets.

    Attributes:
        name: Its name there, and in ``DATASETS``.
        classes: Number of classes.
        files: Which files of the original are read, in a few words.
        places: Folders in which they are looked for without being told.
        packages: How to get them by a package, in a few words; empty where there is none.
    """

    name: str
    classes: int
    files: str
    places: tuple[Path, ...] = ()
    packages: str = ""


OFFICIAL: dict[str, Official] = {
    official.name: official
    for official in (
        Official("mnist", 10, "the four idx files of MNIST"),
        Official(
            "fashion_mnist",
            10,
            "the four idx files of Fashion-MNIST",
            places=(DEBIAN_FASHION_MNIST,),
            packages="on Debian or Ubuntu run: apt install dataset-fashion-mnist; or ",
        ),
        Official("svhn_cropped", 10, "train_32x32.mat and test_32x32.mat"),
        Official("cifar10", 10, "cifar-10-python.tar.gz or cifar-10-binary.tar.gz"),
        Official("cifar100", 100, "cifar-100-python.tar.gz or cifar-100-binary.tar.gz"),
    )
}
"""The sets by name."""


def read_folder(name: str, folder: Path, own: bool = False) -> RawSet:
    """Reads a set from a folder with the files in which its authors publish it.

    Args:
        name: Key in ``OFFICIAL``.
        folder: The folder.
        own: Whether the files may be other data in the same format; otherwise their sizes and
            checksums must be those of the originals.

    Raises:
        DataError: If the files are not there, corrupt, cut off, hostile, or not the originals.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; {_wanted(name)}.")
    for reader in READERS[name]:
        if reader.distribution.find(folder) is not None:
            return reader.read(folder, own)
    raise DataError(f"{folder} does not hold {name}; {_wanted(name)}.")


def prepare(name: str, folder: Path | None, data_dir: Path, own: bool = False) -> Path:
    """Brings a set into the format of tensorflow-datasets, once.

    Args:
        name: Key in ``OFFICIAL``.
        folder: Folder with the original files; None for the places that are known.
        data_dir: Folder of prepared sets.
        own: As in ``read_folder``.

    Returns:
        The prepared set's folder.

    Raises:
        DataError: If there are no files, they cannot be used, or a folder is given although the
            set is prepared already.
    """
    if store.is_prepared(name, data_dir):
        if folder is not None:
            raise DataError(
                f"{name} is prepared already in {data_dir / name}. Delete that folder first, or "
                "name another one (--data-dir)."
            )
    elif folder is None:
        known = [place for place in OFFICIAL[name].places if place.is_dir()]
        if not known:
            raise DataError(absent(name, data_dir))
        folder = known[0]
    if folder is None:
        return store.folder_of(name, data_dir)
    return store.prepare(name, read_folder(name, folder, own), data_dir, original=not own)


def absent(name: str, data_dir: Path) -> str:
    """What to do about a set that is not there, in one line."""
    official = OFFICIAL[name]
    return (
        f"{name} is not in {data_dir}, and nothing is downloaded. To get it, {official.packages}"
        f"put {official.files} into a folder and run: gtddp data {name} --from FOLDER"
    )


def load(name: str, data_dir: Path) -> Dataset:
    """Loads a prepared set, or prepares it from a known place; its test split is for validation.

    Raises:
        DataError: If it is neither prepared nor in a known place, or damaged.
    """
    prepare(name, None, data_dir)
    return as_dataset(name, store.read(name, data_dir))


def as_dataset(name: str, raw: RawSet) -> Dataset:
    """Makes the training set out of a set's official splits; the test split is for validation.

    Args:
        name: Key in ``OFFICIAL``.
        raw: What ``read_folder`` returns.
    """
    train, test = raw.splits["train"], raw.splits["test"]
    return Dataset(
        name=name,
        train_images=_unit(train.images),
        train_labels=train.labels["label"].astype(np.int32),
        validation_images=_unit(test.images),
        validation_labels=test.labels["label"].astype(np.int32),
        classes=OFFICIAL[name].classes,
    )


LOADERS = {name: partial(load, name) for name in OFFICIAL}
"""The sets' loaders by name."""


def _unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


def _wanted(name: str) -> str:
    return f"a folder with {OFFICIAL[name].files} is needed"
