"""Data sets on disk, in the format of tensorflow-datasets and without TensorFlow.

A set is written once, by a subclass of its official builder that takes examples from memory, and
then read by the official builder itself, under its official name and version: any other program
that uses tensorflow-datasets reads the same folder. Needs the extra ``data``.
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

from gtddp_jax.training.data.dataset import DataError
from gtddp_jax.training.data.raw import Examples, RawSet
from gtddp_jax.training.files import MIB, parse_json, read_whole
from gtddp_jax.training.typed import check

EXTRA_MODULES = ("tensorflow_datasets", "array_record", "importlib_resources", "PIL", "scipy")
"""What reading and writing needs beside the library: the extra ``data``."""

CHUNK = 2048
"""Examples fetched at a time."""

ORIGIN_FILE = "gtddp_origin.json"
"""In a prepared set's folder: whether its files had the originals' checksums."""


def default_data_dir() -> Path:
    """The folder of prepared sets unless told otherwise: ``gtddp/data`` in the user's cache.

    The cache is ``$XDG_CACHE_HOME`` where it is an absolute path, otherwise ``~/.cache``.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "gtddp" / "data"


def is_prepared(name: str, data_dir: Path) -> bool:
    """Says whether the set is in the folder; needs no tensorflow-datasets if it is not.

    Args:
        name: The set's name in tensorflow-datasets.
        data_dir: Folder of prepared sets.

    Raises:
        DataError: If there is something, but the extra ``data`` is not installed.
    """
    return (data_dir / name).is_dir() and (
        folder_of(name, data_dir) / "dataset_info.json"
    ).is_file()


def read(name: str, data_dir: Path) -> RawSet:
    """Reads a prepared set whole, in the order in which it is stored.

    Args:
        name: The set's name in tensorflow-datasets.
        data_dir: Folder of prepared sets, this one among them.

    Raises:
        DataError: If it is damaged, or not in the format ``array_record``.
    """
    with _quiet():
        builder = _tfds().builder(name, data_dir=str(data_dir))
        folder = Path(builder.data_path)
        if builder.info.file_format.value != "array_record":
            raise DataError(
                f"{folder}: is in the format {builder.info.file_format.value}, which needs "
                "TensorFlow; array_record is needed. Prepare it in another folder (--data-dir)."
            )
        try:
            splits = {split: _split(builder, split) for split in ("train", "test")}
        except Exception as error:  # the readers' errors have no common base
            raise DataError(
                f"{folder}: cannot be read ({_first_line(error)}). Delete it and prepare it again."
            ) from error
    return RawSet(splits)


def describe(name: str, data_dir: Path) -> str:
    """Says in a line where a prepared set is, and what is known about where it is from."""
    folder = folder_of(name, data_dir)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    origin = folder / ORIGIN_FILE
    if not origin.is_file():
        state = "prepared by another program"
    elif _is_original(origin):
        state = "the files were the originals"
    else:
        state = "own data in the original's format"
    return f"In {folder} ({megabytes:.1f} MB): {state}"


def _is_original(origin: Path) -> bool:
    try:
        found = parse_json(read_whole(origin, MIB))
        check(dict[str, bool], found, "it")
        return found["original"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{origin}: cannot be read ({error}). Prepare the set again.") from error


def prepare(name: str, data: RawSet, data_dir: Path, original: bool) -> Path:
    """Writes a set, so that ``tfds.builder(name, data_dir=data_dir).as_data_source()`` reads it.

    Several processes may do so at the same time; the first one writes. An interrupted call leaves
    nothing that could be taken for the set.

    Args:
        name: The set's name in tensorflow-datasets.
        data: Its examples.
        data_dir: Folder of prepared sets, made if it is not there.
        original: Whether the examples are known to be the official ones; kept with them.

    Returns:
        The set's folder.

    Raises:
        DataError: If the folder cannot be written.
    """
    folder = folder_of(name, data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir / f".{name}.lock"):
            if not is_prepared(name, data_dir):
                _write(name, data, data_dir)
                origin = json.dumps({"original": original})
                (folder / ORIGIN_FILE).write_text(origin, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write to {data_dir}: {error.strerror or error}.") from error
    return folder


def _tfds() -> Any:
    missing = [name for name in EXTRA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"{', '.join(missing)} not found. Run: pip install 'gtddp-jax[data]'")
    import tensorflow_datasets

    return tensorflow_datasets


def folder_of(name: str, data_dir: Path) -> Path:
    """The folder that a set has, or would have, among prepared sets."""
    return data_dir / name / str(_tfds().builder_cls(name).VERSION)


def _write(name: str, data: RawSet, data_dir: Path) -> None:
    for leftover in (data_dir / name).glob("incomplete.*"):
        shutil.rmtree(leftover)  # of a call that was cut off: we hold the lock
    with _quiet(), tempfile.TemporaryDirectory() as unused:
        builder = _builder(name, data)(data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare(download_dir=unused)


def _builder(name: str, data: RawSet) -> Any:
    """Subclasses the official builder; PNG bytes pass through its image feature as they are."""
    official = _tfds().builder_cls(name)

    def splits(self: Any, dl_manager: Any) -> dict[str, Any]:
        for label, names in data.names.items():
            self.info.features[label].names = names
        return {split: self._generate_examples(split) for split in data.splits}

    def generate(self: Any, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        examples = data.splits[split]
        for i, image in enumerate(examples.images):
            record: dict[str, Any] = {
                key: int(labels[i]) for key, labels in examples.labels.items()
            }
            if "id" in self.info.features:
                record["id"] = f"{split}_{i:05d}"
            yield i, record | {"image": _png(image)}

    def body(namespace: dict[str, Any]) -> None:
        namespace |= {
            "name": name,
            "__module__": official.__module__,
            "_split_generators": splits,
            "_generate_examples": generate,
        }

    return new_class(official.__name__, (official,), {"skip_registration": True}, body)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, "png")
    return stream.getvalue()


def _pixels(png: bytes, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png))).reshape(shape)


def _split(builder: Any, split: str) -> Examples:
    skip = _tfds().decode.SkipDecoding()  # Pillow alone is faster than the feature's decoder
    source = builder.as_data_source(split=split, decoders={"image": skip})
    features = builder.info.features
    images = np.empty((len(source), *features["image"].shape), np.uint8)
    keys = [key for key in features if key.endswith("label")]
    labels = {key: np.empty(len(source), np.int64) for key in keys}
    for start in range(0, len(source), CHUNK):
        stop = min(start + CHUNK, len(source))
        for i, record in enumerate(source.__getitems__(range(start, stop)), start):
            images[i] = _pixels(record["image"], images.shape[1:])
            for key in keys:
                labels[key][i] = record[key]
    return Examples(images, labels)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for the other processes that hold the lock; it ends with the process at the latest."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tensorflow-datasets from printing, and from progress bars of its own."""
    tfds, logger = _tfds(), logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
