"""The paper's data sets, and related ones, that no Python package contains."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gtddp_lab.data import store
from gtddp_lab.data.dataset import DataError, Dataset
from gtddp_lab.data.raw import READERS, RawSet

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder in which Debian's package ``dataset-fashion-mnist`` installs its files."""


@dataclass(frozen=True)
class OfficialDataset:
    """A data set of tensorflow-datasets.

    Attributes:
        name: Its name there and in ``DATASETS``.
        classes: Number of classes.
        files: Phrase that names the original files.
        known_folders: Folders that are searched for the files by default.
        package_hint: Phrase that says how to get them from a system package; may be empty.
    """

    name: str
    classes: int
    files: str
    known_folders: tuple[Path, ...] = ()
    package_hint: str = ""


OFFICIAL_DATASETS: dict[str, OfficialDataset] = {
    official.name: official
    for official in (
        OfficialDataset("mnist", 10, "the four idx files of MNIST"),
        OfficialDataset(
            "fashion_mnist",
            10,
            "the four idx files of Fashion-MNIST",
            known_folders=(DEBIAN_FASHION_MNIST,),
            package_hint="on Debian or Ubuntu run: apt install dataset-fashion-mnist; or ",
        ),
        OfficialDataset("svhn_cropped", 10, "train_32x32.mat and test_32x32.mat"),
        OfficialDataset("cifar10", 10, "cifar-10-python.tar.gz or cifar-10-binary.tar.gz"),
        OfficialDataset("cifar100", 100, "cifar-100-python.tar.gz or cifar-100-binary.tar.gz"),
    )
}
"""The data sets by name."""


def read_original_files(name: str, folder: Path, custom_data: bool = False) -> RawSet:
    """Read a data set from a folder that holds the files published by its authors.

    Args:
        name: Key in ``OFFICIAL_DATASETS``.
        folder: The folder.
        custom_data: Whether the files may hold other data in the same format. Otherwise their sizes
            and checksums must be those of the originals.

    Raises:
        DataError: If the files are not there, corrupt, cut off, hostile, or not the originals.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; {_required_files(name)}.")
    # The first format with all its files wins.
    for reader in READERS[name]:
        if reader.distribution.find(folder) is not None:
            return reader.read(folder, custom_data)
    raise DataError(f"{folder} does not hold {name}; {_required_files(name)}.")


def prepare_official(
    name: str, folder: Path | None, data_dir: Path, custom_data: bool = False
) -> Path:
    """Convert a data set to the format of tensorflow-datasets, unless this was done before.

    Args:
        name: Key in ``OFFICIAL_DATASETS``.
        folder: Folder with the original files; None to search the known folders.
        data_dir: Folder of prepared data sets.
        custom_data: As in ``read_original_files``.

    Returns:
        The folder of the prepared data set.

    Raises:
        DataError: If there are no files or they cannot be used, or if a folder is given for a data
            set that is already prepared.
    """
    if store.is_prepared(name, data_dir):
        if folder is not None:
            raise DataError(
                f"{name} is already prepared in {data_dir / name}. Delete that folder first or use "
                "another one (--data-dir)."
            )
    elif folder is None:
        known = [place for place in OFFICIAL_DATASETS[name].known_folders if place.is_dir()]
        if not known:
            raise DataError(missing_dataset_message(name, data_dir))
        folder = known[0]
    if folder is None:
        return store.prepared_folder(name, data_dir)
    # The flag is stored, so that `gtddp data` can later tell original from other data.
    return store.write_prepared(
        name, read_original_files(name, folder, custom_data), data_dir, original=not custom_data
    )


def missing_dataset_message(name: str, data_dir: Path) -> str:
    """Return a one-line message that says how to get a data set that is not there."""
    official = OFFICIAL_DATASETS[name]
    return (
        f"{name} is not in {data_dir}, and nothing is downloaded. To get it, "
        f"{official.package_hint}put {official.files} into a folder and run: "
        f"gtddp data {name} --from FOLDER"
    )


def load_official(name: str, data_dir: Path) -> Dataset:
    """Load a prepared data set, or prepare it from a known folder first.

    Raises:
        DataError: If it is neither prepared nor in a known folder, or if it is damaged.
    """
    prepare_official(name, None, data_dir)
    return to_dataset(name, store.read_prepared(name, data_dir))


def to_dataset(name: str, raw: RawSet) -> Dataset:
    """Convert to a `Dataset`; the official test split becomes the validation split.

    Args:
        name: Key in ``OFFICIAL_DATASETS``.
        raw: The data set as returned by ``read_original_files``.
    """
    train, test = raw.splits["train"], raw.splits["test"]
    return Dataset(
        name=name,
        train_images=_to_unit_range(train.images),
        train_labels=train.labels["label"].astype(np.int32),
        validation_images=_to_unit_range(test.images),
        validation_labels=test.labels["label"].astype(np.int32),
        classes=OFFICIAL_DATASETS[name].classes,
    )


OFFICIAL_LOADERS = {name: partial(load_official, name) for name in OFFICIAL_DATASETS}
"""Their loaders by name."""


def _to_unit_range(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


def _required_files(name: str) -> str:
    return f"a folder with {OFFICIAL_DATASETS[name].files} is needed"
