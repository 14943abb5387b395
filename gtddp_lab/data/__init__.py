"""Data sets that fit in memory, each with a fixed train/validation split.

| module         | content                                                                       |
|----------------|-------------------------------------------------------------------------------|
| `dataset`      | `Dataset`, a loaded data set                                                  |
| `digits`       | scikit-learn's digits                                                         |
| `mnist1d`      | MNIST-1D, generated (needs the extra `data`)                                  |
| `pydoc_topics` | Python's help topics, for language models                                     |
| `official`     | MNIST, Fashion-MNIST, SVHN, CIFAR-10 and CIFAR-100                            |
| `raw`          | readers of the formats in which the authors publish these                     |
| `store`        | prepared data sets on disk (needs the extra `data`)                           |
| `order`        | which samples form a batch                                                    |
| `augmentation` | random changes of the training images                                         |
| `feed`         | how `jit` builds a batch from device memory                                   |
"""

from collections.abc import Callable
from pathlib import Path

from gtddp_lab.core.look_up import look_up
from gtddp_lab.data.augmentation import AUGMENTATIONS, sample_keys
from gtddp_lab.data.dataset import DataError, Dataset
from gtddp_lab.data.digits import digits_dataset
from gtddp_lab.data.feed import DataSplit, Feed
from gtddp_lab.data.mnist1d import mnist1d_dataset
from gtddp_lab.data.official import OFFICIAL_LOADERS
from gtddp_lab.data.order import (
    DataPosition,
    data_position,
    epoch_order,
    process_rows,
    steps_per_epoch,
)
from gtddp_lab.data.pydoc_topics import pydoc_topics_dataset
from gtddp_lab.data.store import default_data_dir

DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": digits_dataset,
    "mnist1d": mnist1d_dataset,
    "pydoc_topics": pydoc_topics_dataset,
    **OFFICIAL_LOADERS,
}
"""Loaders by name. Each takes the folder of prepared data sets."""


def load_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """Load the data set called ``name``.

    Args:
        name: Key in ``DATASETS``.
        data_dir: Folder of prepared data sets; by default ``default_data_dir()``.

    Raises:
        ValueError: If ``name`` is not in ``DATASETS``.
        DataError: If the data set is not there or is damaged; the message says how to get it.
    """
    return look_up(DATASETS, name, "dataset")(data_dir or default_data_dir())


__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "DataError",
    "DataPosition",
    "DataSplit",
    "Dataset",
    "Feed",
    "data_position",
    "default_data_dir",
    "epoch_order",
    "load_dataset",
    "process_rows",
    "sample_keys",
    "steps_per_epoch",
]
