"""Small files that ask for much memory are refused before it is taken."""

import gzip
import io
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from gtddp_lab.data import DataError
from gtddp_lab.data.official import read_original_files
from gtddp_lab.data.raw import matlab, original_files, svhn
from gtddp_lab.data.raw.matlab import MatlabError, list_variables
from gtddp_lab.data.raw.svhn import parse_svhn_file
from tests.lab.data import originals

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
UINT8_CLASS, UINT8 = 9, 2


def part(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def head(name: str, shape: tuple[int, ...], flags: int = UINT8_CLASS) -> bytes:
    """Class, shape and name of an array."""
    dimensions = struct.pack(f"<{len(shape)}i", *shape)
    return part(6, struct.pack("<II", flags, 0)) + part(5, dimensions) + part(1, name.encode())


def element(body: bytes, claimed: int | None = None, kind: int = 14) -> bytes:
    return struct.pack("<II", kind, len(body) if claimed is None else claimed) + body


def compressed(content: bytes) -> bytes:
    return element(zlib.compress(content), kind=15)


def zeros(name: str, shape: tuple[int, ...], numbers: int) -> bytes:
    """An element that unpacks to zeros, of which the shape may claim another number."""
    return compressed(element(head(name, shape) + part(UINT8, bytes(numbers))))


@pytest.mark.parametrize("compression", [False, True])
def test_arrays_are_those_that_were_written(compression: bool) -> None:
    rng = np.random.default_rng(0)
    codes = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
    written = {f"a_{code}": rng.integers(0, 100, (3, 2, 4)).astype(code) for code in codes}
    written["y"] = np.array([[7]], np.uint8)  # so short that it shares its tag
    stream = io.BytesIO()
    savemat(stream, written, do_compression=compression)
    found = list_variables(stream.getvalue())
    assert set(found) == set(written)
    for name, array in written.items():
        assert (found[name].class_name, found[name].shape) == (array.dtype.name, array.shape)
        np.testing.assert_array_equal(found[name].read(2**20), array)


def test_a_big_endian_file() -> None:
    body = struct.pack(">IIII", 6, 8, 11, 0) + struct.pack(">IIii", 5, 8, 1, 2)
    body += struct.pack(">HHc3x", 1, 1, b"y") + struct.pack(">HHHH", 4, 4, 258, 3)
    content = HEADER[:124] + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body
    np.testing.assert_array_equal(list_variables(content)["y"].read(2**20), [[258, 3]])


X = head("X", (2, 3))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "more numbers than bytes": (
        element(X + part(UINT8, bytes(5))),
        r"X \[2, 3\] has 5 bytes, which are not its numbers",
    ),
    "more bytes than numbers": (element(X + part(UINT8, bytes(7))), r"X \[2, 3\] has 7 bytes"),
    "a length beyond the file": (
        element(X + struct.pack("<II", UINT8, 6)),
        r"X \[2, 3\] has 6 bytes",
    ),
    "an unknown type": (element(X + part(99, bytes(6))), "X is stored in the unknown type 99"),
    "no numbers": (element(X), "it ends within a tag"),
    "an array beyond the file": (element(X, claimed=2**32 - 1), "it ends within an array"),
    "a negative length": (element(head("X", (-1, 2**31 - 1))), "an array has a negative length"),
    "a long name": (element(head(5000 * "x", (1, 1))), "the head of an array is too long"),
    "a damaged head": (element(part(6, b"") + X), "the head of an array is damaged"),
    "another element": (element(X, kind=7), "it holds an element of type 7 beside its arrays"),
    "no array inside": (
        compressed(element(X, kind=7)),
        "holds an element of type 7 where an array belongs",
    ),
    "a compressed element that is cut off": (
        element(zlib.compress(element(X + part(UINT8, bytes(6))))[:-6], kind=15),
        "does not unpack to the 72 bytes that its head announces",
    ),
    "more than announced": (
        compressed(element(X + part(UINT8, bytes(6)), claimed=56)),
        "does not unpack to the 64 bytes that its head announces",
    ),
    "a gigabyte in a hundred bytes": (
        compressed(element(head("X", (2**30, 1)) + part(UINT8, b""), claimed=2**30)),
        r"an array announces 1073741832 bytes in \d\d compressed ones",
    ),
    "a terabyte": (
        compressed(element(head("X", (2**30, 1)) + part(UINT8, b""), claimed=2**32 - 1)),
        "X unpacks to 4294967303 bytes, more than 2147483648",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays(name: str) -> None:
    content, message = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(MatlabError, match=message):
            list_variables(HEADER + content)["X"].read(2**31)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_file_of_many_arrays() -> None:
    many = [element(head(f"x{number}", (1, 1))) for number in range(101)]
    with pytest.raises(MatlabError, match="it holds more than 100 arrays"):
        list_variables(HEADER + b"".join(many))
    with pytest.raises(MatlabError, match="it has no header of a MATLAB file of format 5"):
        list_variables(b"")


@pytest.mark.parametrize("flags", [UINT8_CLASS | 0x0800, 1, 5])
def test_complex_arrays_and_cells_are_not_numeric(flags: int) -> None:
    images = element(head("X", (32, 32, 3, 1), flags) + part(UINT8, bytes(3072)))
    with pytest.raises(DataError, match="X must be uint8 and y numeric, got other and uint8"):
        parse_svhn_file(HEADER + images + zeros("y", (1, 1), 1), "file")


def svhn_bomb(images: int) -> bytes:
    """Black images, all of the digit 1: a thousandth of their size."""
    labels = compressed(element(head("y", (images, 1)) + part(UINT8, images * b"\x01")))
    return HEADER + zeros("X", (32, 32, 3, images), 3072 * images) + labels


def test_an_svhn_file_takes_no_more_than_its_images() -> None:
    images = 10_000
    content = svhn_bomb(images)
    assert len(content) < 50_000
    tracemalloc.start()
    try:
        parse_svhn_file(content, "file")
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 1.2 * 3072 * images
        tracemalloc.reset_peak()
        with pytest.raises(DataError, match=r"refused because it claims 10000 images\."):
            parse_svhn_file(content, "file", limit=3071 * images)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def limited(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    for module in (original_files, svhn):
        monkeypatch.setattr(module, "MAX_BYTES", most)


def test_the_files_of_a_set_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}_32x32.mat").write_bytes(svhn_bomb(100))
    read_original_files("svhn_cropped", tmp_path, custom_data=True)
    limited(monkeypatch, 500_000)  # one of them would do
    with pytest.raises(DataError, match=r"test_32x32\.mat: refused because it claims 100 images"):
        read_original_files("svhn_cropped", tmp_path, custom_data=True)


def write_black_digits(folder: Path, images: int) -> None:
    for stem in ("train", "t10k"):
        contents: dict[str, Any] = {
            f"{stem}-images-idx3-ubyte.gz": np.zeros((images, 28, 28), np.uint8),
            f"{stem}-labels-idx1-ubyte.gz": np.zeros(images, np.uint8),
        }
        for name, array in contents.items():
            (folder / name).write_bytes(gzip.compress(originals.idx(array)))


def test_compressed_files_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_black_digits(tmp_path, 100)
    read_original_files("mnist", tmp_path, custom_data=True)
    limited(monkeypatch, 100_000)  # one split has 78 500 bytes
    message = r"t10k-images-idx3-ubyte\.gz: holds more than the allowed \d+ bytes"
    with pytest.raises(DataError, match=message):
        read_original_files("mnist", tmp_path, custom_data=True)


def test_an_archive_of_many_members(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as members:
        for number in range(10_001):
            members.addfile(tarfile.TarInfo(str(number)))
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(gzip.compress(stream.getvalue(), 1))
    with pytest.raises(DataError, match=r"refused because it has more than .* members\."):
        read_original_files("cifar10", tmp_path, custom_data=True)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("cifar10", "cifar-10-binary.tar.gz"), ("mnist", "train-images-idx3-ubyte.gz")],
)
def test_a_sparse_file_is_not_read(dataset: str, name: str, tmp_path: Path) -> None:
    """Zeros behind the compressed data are skipped by gzip, however many."""
    write_black_digits(tmp_path, 1)
    with (tmp_path / name).open("wb") as file:
        file.write(gzip.compress(b"x"))
        file.truncate(2**42)
    message = f"{name}: has {2**42} bytes, a data set at most {2**30} in all"
    with pytest.raises(DataError, match=message):
        read_original_files(dataset, tmp_path, custom_data=True)


def test_the_ratio_is_that_of_zlib() -> None:
    """The smallest form of zeros stays within the bound, so no honest file is refused."""
    size = 2**24
    assert size / len(zlib.compress(bytes(size), 9)) < matlab.LARGEST_RATIO
