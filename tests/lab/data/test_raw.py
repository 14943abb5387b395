"""The original formats are read; damaged and hostile files are refused."""

import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from gtddp_lab.data import DataError
from gtddp_lab.data.official import read_original_files
from gtddp_lab.data.raw import idx, original_files, pickles, svhn
from gtddp_lab.data.raw.original_files import Distribution, OriginalFile
from tests.lab.data import originals

ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"


@pytest.mark.parametrize("form", originals.WRITERS)
def test_every_format_is_read_as_it_was_written(form: str, tmp_path: Path) -> None:
    name, write = originals.WRITERS[form]
    write(tmp_path)
    splits = read_original_files(name, tmp_path, custom_data=True).splits
    assert set(splits) == {"train", "test"}
    for split, found in splits.items():
        want = originals.expected(name, split)
        np.testing.assert_array_equal(found.images, want.images)
        assert set(found.labels) == set(want.labels)
        for key, labels in want.labels.items():
            np.testing.assert_array_equal(found.labels[key], labels)


@pytest.mark.parametrize("form", ["python", "binary"])
def test_names_of_classes_are_read(form: str, tmp_path: Path) -> None:
    originals.write_cifar(tmp_path, "cifar10", form, packed=True)
    assert read_original_files("cifar10", tmp_path, custom_data=True).names == {
        "label": originals.NAMES["label"]
    }


@pytest.mark.parametrize("form", originals.WRITERS)
def test_other_data_needs_the_option(form: str, tmp_path: Path) -> None:
    name, write = originals.WRITERS[form]
    write(tmp_path)
    with pytest.raises(DataError, match=r"original.*--own"):
        read_original_files(name, tmp_path)


def small(path: Path, content: bytes, md5: str) -> dict[str, bytes]:
    (path / "file").write_bytes(content)
    return Distribution((OriginalFile("file", 3, md5),)).read(path, custom_data=False)


def test_checksums_are_compared(tmp_path: Path) -> None:
    md5 = "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321's example "abc"
    assert small(tmp_path, b"abc", md5) == {"file": b"abc"}
    with pytest.raises(DataError, match=r"file: is not the original \(md5 .* instead of 9001"):
        small(tmp_path, b"abd", md5)
    with pytest.raises(DataError, match="file: has 2 bytes, the original 3: truncated"):
        small(tmp_path, b"ab", md5)
    with pytest.raises(DataError, match="file: holds more than the allowed 3 bytes"):
        small(tmp_path, b"abcd", md5)


# Damaged files: the message names the file and the damage.


def cut(path: Path, keep: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("form", "file", "damage", "message"),
    [
        (
            "idx",
            "train-images-idx3-ubyte",
            cut,
            "train-images-idx3-ubyte: is truncated: its header",
        ),
        ("idx", "t10k-labels-idx1-ubyte", lambda p: cut(p, 0), "is truncated in its header"),
        (
            "idx",
            "t10k-labels-idx1-ubyte",
            lambda p: p.write_bytes(p.read_bytes() + b"!"),
            "has bytes left over",
        ),
        (
            "idx",
            "train-labels-idx1-ubyte",
            lambda p: p.write_bytes(originals.idx(np.zeros(9))),
            "10 images but 9 labels",
        ),
        (
            "idx",
            "train-labels-idx1-ubyte",
            lambda p: p.write_bytes(originals.idx(np.full(10, 77))),
            r"label must lie in \[0, 10\), got 77 to 77",
        ),
        (
            "idx",
            "train-images-idx3-ubyte",
            lambda p: p.write_bytes(originals.idx(np.zeros((10, 8, 8)))),
            "images must be 28x28x1, got shape",
        ),
        ("idx", "t10k-labels-idx1-ubyte", os.unlink, "t10k-labels-idx1-ubyte is missing"),
        ("idx.gz", "train-images-idx3-ubyte.gz", cut, "ubyte.gz: is truncated or corrupt"),
        (
            "idx.gz",
            "train-images-idx3-ubyte.gz",
            flip_byte,
            r"ubyte.gz: is (truncated or )?corrupt",
        ),
        (
            "idx.gz",
            "train-images-idx3-ubyte.gz",
            lambda p: p.write_bytes(b"no gzip"),
            "is corrupt or not a gzip file",
        ),
        ("svhn mat", "test_32x32.mat", cut, r"is truncated or corrupt \(it ends within an array\)"),
        ("svhn mat", "test_32x32.mat", flip_byte, "test_32x32.mat: is truncated or corrupt"),
        (
            "svhn mat",
            "test_32x32.mat",
            lambda p: cut(p, 0),
            "test_32x32.mat: is truncated or corrupt",
        ),
        (
            "svhn mat",
            "test_32x32.mat",
            lambda p: savemat(p, {"X": np.zeros((3, 3))}),
            r"must hold X \[32, 32, 3, N\] and y \[N, 1\], but holds X \[3, 3\]",
        ),
        (
            "cifar10 binary folder",
            f"{FOLDER}/data_batch_3.bin",
            cut,
            "data_batch_3.bin: is truncated or not a CIFAR file",
        ),
        ("cifar10 binary archive", ARCHIVE, cut, f"{ARCHIVE}: is truncated or corrupt"),
        ("cifar10 binary archive", ARCHIVE, flip_byte, rf"{ARCHIVE}: is (truncated or )?corrupt"),
        (
            "cifar100 python folder",
            "cifar-100-python/train",
            cut,
            "train: is truncated or corrupt",
        ),
    ],
)
def test_damage_is_named(
    form: str, file: str, damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    name, write = originals.WRITERS[form]
    write(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(DataError, match=message) as error:
        read_original_files(name, tmp_path, custom_data=True)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    message = r"x: cannot be read \(Permission denied\)\."
    with pytest.raises(DataError, match=message), original_files.errors_naming_path(tmp_path / "x"):
        raise PermissionError(13, "Permission denied")


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold cifar100; a folder with cifar-100-python"):
        read_original_files("cifar100", tmp_path)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read_original_files("cifar100", tmp_path / "nowhere")


# Hostile files.


def link(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo(f"{FOLDER}/readme.html")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.addfile(member)


def device(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo(f"{FOLDER}/readme.html")
    member.type = tarfile.CHRTYPE
    archive.addfile(member)


def named(name: str) -> Callable[[tarfile.TarFile], None]:
    return lambda archive: archive.addfile(tarfile.TarInfo(name))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (named("../evil"), "'../evil' leads outside"),
        (named(f"{FOLDER}/../../evil"), "leads outside"),
        (named("/etc/cron.d/evil"), "leads outside"),
        (named(f"{FOLDER}/test_batch.bin"), "holds .*test_batch.bin twice"),
        (link, "readme.html' is not a file or folder"),
        (device, "readme.html' is not a file or folder"),
    ],
)
def test_hostile_archives(
    more: Callable[[tarfile.TarFile], None], message: str, tmp_path: Path
) -> None:
    content = originals.cifar_files("cifar10", "binary")
    packed = {f"{FOLDER}/{file}": data for file, data in content.items()}
    originals.write_archive(tmp_path / ARCHIVE, packed, more)
    with pytest.raises(DataError, match=message):
        read_original_files("cifar10", tmp_path, custom_data=True)
    assert sorted(os.listdir(tmp_path)) == [ARCHIVE]  # nothing was unpacked


def test_an_archive_that_claims_a_huge_member(tmp_path: Path) -> None:
    member = tarfile.TarInfo(f"{FOLDER}/data_batch_1.bin")
    member.size = 2**40
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(member.tobuf()))
    with pytest.raises(DataError, match=f"claims {2**40} bytes"):
        read_original_files("cifar10", tmp_path, custom_data=True)


@pytest.mark.parametrize("form", ["idx.gz", "cifar10 binary archive"])
def test_files_that_decompress_to_too_much(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write = originals.WRITERS[form]
    write(tmp_path)
    monkeypatch.setattr(original_files, "MAX_BYTES", 5000)
    with pytest.raises(
        DataError,
        match=r"(to more than|more than the allowed|a data set at most) 5000|claims",
    ):
        read_original_files(name, tmp_path, custom_data=True)


def test_an_image_count_beyond_memory() -> None:
    content = bytes([0, 0, 8, 3]) + b"\xff" * 12
    with pytest.raises(
        DataError, match="is truncated: its header announces 79228162458924105385300197375"
    ):
        idx.parse_idx_array(content, "images", axes=3)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"data": Evil()}, 2), "refused because it asks for posix.system"),
        (pickle.dumps({"data": np.zeros(3)}, 2), "_codecs.encode|unsigned bytes"),
        (pickle.dumps([1, 2], 2), "must hold a dict, but holds a list"),
        (b"\x80\x02Pthing\n.", "is truncated or corrupt|refused"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "refused because it asks for memory slot"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "it calls a class that NumPy only passes as an argument"),
        (b"\x80\x02cnumpy\ndtype\n}b.", "it modifies a class or function"),
        (b"\x80\x02" + b"]" * 5, "is truncated or corrupt"),
        (b"", "is truncated or corrupt"),
    ],
)
def test_hostile_pickles(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pickles.load_restricted_pickle(content, "batch")


def test_an_array_must_have_as_many_bytes_as_its_shape_says() -> None:
    honest = originals.python2_pickle({b"data": np.zeros((2, 3), np.uint8)})
    np.testing.assert_array_equal(
        pickles.load_restricted_pickle(honest, "batch")[b"data"], np.zeros((2, 3))
    )
    shape = b"J\x02\x00\x00\x00J\x03\x00\x00\x00"
    assert shape in honest
    with pytest.raises(DataError, match=r"shape \(2, 2147483647\) has 6 bytes"):
        pickles.load_restricted_pickle(
            honest.replace(shape, b"J\x02\x00\x00\x00J\xff\xff\xff\x7f"), "batch"
        )


def test_digits_outside_of_svhn_s_numbering(tmp_path: Path) -> None:
    stream = io.BytesIO()
    savemat(stream, {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": np.zeros((1, 1), np.uint8)})
    with pytest.raises(DataError, match=r"labels must lie in \[1, 10\], got 0"):
        svhn.parse_svhn_file(stream.getvalue(), "file")


def test_matlab_7_3_is_named() -> None:
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with pytest.raises(DataError, match=r"format 7\.3; the original has format 5"):
        svhn.parse_svhn_file(header + b"\x00" * 512, "file")
