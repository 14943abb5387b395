"""Write small data sets in the formats published by their authors."""

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from gtddp_lab.data.raw import Examples

SIZES = {"train": 10, "test": 4}


def examples(split: str, shape: tuple[int, ...], classes: dict[str, int]) -> Examples:
    """Noise and labels, used by both the writers and the tests."""
    rng = np.random.default_rng(len(split))
    size = SIZES[split]
    images = rng.integers(0, 256, (size, *shape), np.uint8)
    return Examples(images, {key: rng.integers(0, n, size) for key, n in classes.items()})


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, compress: bool = False) -> None:
    for split, stem in (("train", "train"), ("test", "t10k")):
        part = examples(split, (28, 28, 1), {"label": 10})
        for name, array in (
            (f"{stem}-images-idx3-ubyte", part.images[..., 0]),
            (f"{stem}-labels-idx1-ubyte", part.labels["label"]),
        ):
            content = idx(array)
            path = folder / (f"{name}.gz" if compress else name)
            path.write_bytes(gzip.compress(content) if compress else content)


def python2_pickle(value: Any) -> bytes:
    """Pickle like Python 2 with protocol 2: text as byte strings, arrays by ``_reconstruct``."""
    return b"\x80\x02" + _encode(value) + b"."


def _encode(value: Any) -> bytes:
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int | np.integer):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_encode, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_encode(k) + _encode(v) for k, v in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # its state
    shape = b"".join(map(_encode, value.shape)) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + _encode(value.tobytes()) + b"tb"


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


CIFAR = {
    "cifar10": (
        {"label": 10},
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    ),
    "cifar100": ({"coarse_label": 20, "label": 100}, {"train": ["train"], "test": ["test"]}),
}
"""Classes by label, and file names by split."""

NAMES = {key: [f"{key} {i}" for i in range(n)] for key, n in (("label", 10), ("coarse_label", 20))}


def cifar_files(name: str, form: str) -> dict[str, bytes]:
    """The files of CIFAR-10 or CIFAR-100 in the Python or the binary version, by name."""
    classes, stems = CIFAR[name]
    files: dict[str, bytes] = {}
    for split, parts in stems.items():
        whole = examples(split, (32, 32, 3), classes)
        for stem, rows in zip(
            parts, np.array_split(np.arange(SIZES[split]), len(parts)), strict=True
        ):
            labels = {key: values[rows] for key, values in whole.labels.items()}
            pixels = planes(whole.images[rows])
            if form == "binary":
                columns = [labels[key][:, None] for key in classes]
                files[f"{stem}.bin"] = np.hstack([*columns, pixels]).astype(np.uint8).tobytes()
            else:
                keys = {"cifar10": {"label": b"labels"}}.get(
                    name, {"label": b"fine_labels", "coarse_label": b"coarse_labels"}
                )
                entries: dict[bytes, Any] = {keys[k]: v.tolist() for k, v in labels.items()}
                entries |= {b"batch_label": b"batch", b"filenames": [b"a.png"] * len(rows)}
                files[stem] = python2_pickle(entries | {b"data": pixels})
    names = [name.encode() for name in NAMES["label"]]
    if name == "cifar10":
        if form == "binary":
            files["batches.meta.txt"] = b"\n".join(names) + b"\n\n"
        else:
            files["batches.meta"] = python2_pickle({b"label_names": names, b"num_vis": 3072})
    return files


FOLDERS = {
    ("cifar10", "python"): ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ("cifar10", "binary"): ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    ("cifar100", "python"): ("cifar-100-python", "cifar-100-python.tar.gz"),
    ("cifar100", "binary"): ("cifar-100-binary", "cifar-100-binary.tar.gz"),
}


def write_archive(
    path: Path, files: dict[str, bytes], more: Callable[[tarfile.TarFile], None] | None = None
) -> None:
    """Write a tar.gz; ``more`` adds members of other kinds."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if more is not None:
            more(archive)


def write_cifar(folder: Path, name: str, form: str, packed: bool) -> None:
    subfolder, archive = FOLDERS[name, form]
    files = {f"{subfolder}/{file}": content for file, content in cifar_files(name, form).items()}
    if packed:
        write_archive(folder / archive, files)
        return
    (folder / subfolder).mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)


def write_svhn(folder: Path) -> None:
    for split in SIZES:
        part = examples(split, (32, 32, 3), {"label": 10})
        digits = np.where(part.labels["label"] == 0, 10, part.labels["label"]).astype(np.uint8)
        variables = {"X": part.images.transpose(1, 2, 3, 0), "y": digits[:, None]}
        savemat(folder / f"{split}_32x32.mat", variables, do_compression=True)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "idx": ("mnist", write_idx),
    "idx.gz": ("fashion_mnist", lambda folder: write_idx(folder, compress=True)),
    "svhn mat": ("svhn_cropped", write_svhn),
    **{
        f"{name} {form} {'archive' if packed else 'folder'}": (
            name,
            lambda folder, name=name, form=form, packed=packed: write_cifar(
                folder, name, form, packed
            ),
        )
        for name, form in FOLDERS
        for packed in (False, True)
    },
}
"""Name of the data set and function that writes it, by format."""

SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1)}


def expected(name: str, split: str) -> Examples:
    classes = CIFAR[name][0] if name in CIFAR else {"label": 10}
    return examples(split, SHAPES.get(name, (32, 32, 3)), classes)
