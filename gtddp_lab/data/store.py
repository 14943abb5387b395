"""Data sets on disk, in the format of tensorflow-datasets but without TensorFlow.

A data set is written once, by a subclass of its official builder that takes examples from memory.
The official builder itself then reads it, under its official name and version, and so can any other
program that uses tensorflow-datasets. Needs the extra ``data``.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import new_class
from typing import Any

import numpy as np

from gtddp_lab.core.files import MIB, parse_json, read_text_file
from gtddp_lab.core.json_types import check_type
from gtddp_lab.data.dataset import DataError
from gtddp_lab.data.raw import Examples, RawSet

DATA_MODULES = ("tensorflow_datasets", "array_record", "importlib_resources", "PIL", "scipy")
"""Modules of the extra ``data``, which reading and writing need."""

EXAMPLES_PER_READ = 2048
"""Number of examples fetched per read."""

ORIGIN_FILE = "gtddp_origin.json"
"""File in the folder of a prepared data set: whether its sources were the original files."""


def default_data_dir() -> Path:
    """Return the default folder of prepared data sets, ``gtddp/data`` in the user's cache.

    The cache is ``$XDG_CACHE_HOME`` if that is an absolute path, otherwise ``~/.cache``.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "gtddp" / "data"


def is_prepared(name: str, data_dir: Path) -> bool:
    """Return whether the data set is in the folder; without it, the extra ``data`` is not needed.

    Args:
        name: Name of the data set in tensorflow-datasets.
        data_dir: Folder of prepared data sets.

    Raises:
        DataError: If there is such a folder but the extra ``data`` is not installed.
    """
    return (data_dir / name).is_dir() and (
        prepared_folder(name, data_dir) / "dataset_info.json"
    ).is_file()


def read_prepared(name: str, data_dir: Path) -> RawSet:
    """Read a whole prepared data set, in stored order.

    Args:
        name: Name of the data set in tensorflow-datasets.
        data_dir: Folder of prepared data sets.

    Raises:
        DataError: If the data set is damaged or not in the format ``array_record``.
    """
    with _silenced():
        builder = _tensorflow_datasets().builder(name, data_dir=str(data_dir))
        folder = Path(builder.data_path)
        if builder.info.file_format.value != "array_record":
            raise DataError(
                f"{folder}: has the format {builder.info.file_format.value}, which needs "
                "TensorFlow, instead of array_record. Prepare it in another folder (--data-dir)."
            )
        try:
            splits = {split: _read_split(builder, split) for split in ("train", "test")}
        except Exception as error:  # the errors of the readers have no common base class
            raise DataError(
                f"{folder}: cannot be read ({_first_line(error)}). Delete it and prepare it again."
            ) from error
    return RawSet(splits)


def describe_prepared(name: str, data_dir: Path) -> str:
    """Return one line with the folder, the size and the origin of a prepared data set."""
    folder = prepared_folder(name, data_dir)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    origin_file = folder / ORIGIN_FILE
    if not origin_file.is_file():
        origin_text = "prepared by another program"
    elif _is_original(origin_file):
        origin_text = "prepared from the original files"
    else:
        origin_text = "prepared from other data in the original format"
    return f"In {folder} ({megabytes:.1f} MB): {origin_text}"


def _is_original(origin_file: Path) -> bool:
    try:
        found = parse_json(read_text_file(origin_file, MIB))
        check_type(dict[str, bool], found, "it")
        return found["original"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{origin_file}: cannot be read ({error}). Prepare the data set again."
        ) from error


def write_prepared(name: str, data: RawSet, data_dir: Path, original: bool) -> Path:
    """Write a data set so that ``tfds.builder(name, data_dir=data_dir).as_data_source()`` reads it.

    Several processes may call this at the same time; the first one writes. An interrupted call
    leaves nothing that could be mistaken for the data set.

    Args:
        name: Name of the data set in tensorflow-datasets.
        data: Its examples.
        data_dir: Folder of prepared data sets; created if it does not exist.
        original: Whether the examples are known to be the official ones; stored with them.

    Returns:
        The folder of the data set.

    Raises:
        DataError: If the folder cannot be written.
    """
    folder = prepared_folder(name, data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # Several processes of one run may prepare the data set at the same time.
        with _exclusive_lock(data_dir / f".{name}.lock"):
            if not is_prepared(name, data_dir):
                _write_set(name, data, data_dir)
                origin = json.dumps({"original": original})
                (folder / ORIGIN_FILE).write_text(origin, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write to {data_dir}: {error.strerror or error}.") from error
    return folder


def _tensorflow_datasets() -> Any:
    missing = [name for name in DATA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(
            f"{', '.join(missing)} not found. Run in the project's folder: pip install -e '.[data]'"
        )
    import tensorflow_datasets

    return tensorflow_datasets


def prepared_folder(name: str, data_dir: Path) -> Path:
    """Return the folder of a data set, whether or not it exists."""
    return data_dir / name / str(_tensorflow_datasets().builder_cls(name).VERSION)


def _write_set(name: str, data: RawSet, data_dir: Path) -> None:
    for leftover in (data_dir / name).glob("incomplete.*"):
        shutil.rmtree(leftover)  # from an interrupted call: this process holds the lock
    # The builder insists on a download folder, although it downloads nothing.
    with _silenced(), tempfile.TemporaryDirectory() as unused:
        builder = _builder_class(name, data)(data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare(download_dir=unused)


def _builder_class(name: str, data: RawSet) -> Any:
    """Subclass the official builder; its image feature stores PNG bytes unchanged."""
    official = _tensorflow_datasets().builder_cls(name)

    def splits(self: Any, dl_manager: Any) -> dict[str, Any]:
        for label, names in data.names.items():
            self.info.features[label].names = names
        return {split: self._generate_examples(split) for split in data.splits}

    def generate(self: Any, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        examples = data.splits[split]
        for index, image in enumerate(examples.images):
            record: dict[str, Any] = {
                key: int(labels[index]) for key, labels in examples.labels.items()
            }
            # CIFAR's official features include an identifier.
            if "id" in self.info.features:
                record["id"] = f"{split}_{index:05d}"
            yield index, record | {"image": _encode_png(image)}

    def body(namespace: dict[str, Any]) -> None:
        namespace |= {
            "name": name,
            "__module__": official.__module__,
            "_split_generators": splits,
            "_generate_examples": generate,
        }

    return new_class(official.__name__, (official,), {"skip_registration": True}, body)


def _encode_png(image: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, "png")
    return stream.getvalue()


def _decode_png(png: bytes, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png))).reshape(shape)


def _read_split(builder: Any, split: str) -> Examples:
    skip = (
        _tensorflow_datasets().decode.SkipDecoding()
    )  # Pillow alone is faster than the feature's decoder
    source = builder.as_data_source(split=split, decoders={"image": skip})
    features = builder.info.features
    images = np.empty((len(source), *features["image"].shape), np.uint8)
    keys = [key for key in features if key.endswith("label")]
    labels = {key: np.empty(len(source), np.int64) for key in keys}
    # Batched reads are much faster than single ones.
    for start in range(0, len(source), EXAMPLES_PER_READ):
        stop = min(start + EXAMPLES_PER_READ, len(source))
        for index, record in enumerate(source.__getitems__(range(start, stop)), start):
            images[index] = _decode_png(record["image"], images.shape[1:])
            for key in keys:
                labels[key][index] = record[key]
    return Examples(images, labels)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a file lock, which the system releases at the latest when the process ends."""
    import fcntl

    with path.open("w") as file:
        # Closing the file, at the latest at process exit, releases the lock.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the output and the progress bars of tensorflow-datasets."""
    tfds, logger = _tensorflow_datasets(), logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
