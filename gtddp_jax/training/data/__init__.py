"""Data sets that fit in memory, each with a fixed train/validation split.

One module per idea: ``dataset`` (what a loaded set is), ``digits`` and ``official`` (the sets),
``raw`` (the formats in which their authors publish them), ``store`` (prepared sets on disk, for
which the extra ``data`` is needed), ``order`` (which samples a batch has), ``augmentation`` and
``feed`` (how a batch is made inside ``jit``).
"""

from collections.abc import Callable
from pathlib import Path

from gtddp_jax.training.data.augmentation import AUGMENTATIONS, sample_keys
from gtddp_jax.training.data.dataset import DataError, Dataset
from gtddp_jax.training.data.digits import digits
from gtddp_jax.training.data.feed import Feed, Part
from gtddp_jax.training.data.official import LOADERS
from gtddp_jax.training.data.order import (
    Position,
    epoch_order,
    position,
    process_part,
    steps_per_epoch,
)
from gtddp_jax.training.data.store import default_data_dir
from gtddp_jax.training.tables import look_up

DATASETS: dict[str, Callable[[Path], Dataset]] = {"digits": digits, **LOADERS}
"""Loaders by name; each takes the folder of prepared sets."""


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Loads the data set called ``name``.

    Args:
        name: Key in ``DATASETS``.
        data_dir: Folder of prepared sets; by default ``default_data_dir()``.

    Raises:
        ValueError: If ``name`` is not in ``DATASETS``.
        DataError: If the set is not there; the text says how to get it. Also if it is damaged.
    """
    return look_up(DATASETS, name, "dataset")(data_dir or default_data_dir())


__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "DataError",
    "Dataset",
    "Feed",
    "Part",
    "Position",
    "default_data_dir",
    "epoch_order",
    "load",
    "position",
    "process_part",
    "sample_keys",
    "steps_per_epoch",
]
