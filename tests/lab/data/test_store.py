"""Prepared sets: written without TensorFlow, read by the stock builders of tensorflow-datasets."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtddp_lab import data
from gtddp_lab.cli.main import main
from gtddp_lab.data import official, store
from tests.lab.data import originals


def prepared(form: str, tmp_path: Path) -> tuple[str, Path]:
    name, write = originals.WRITERS[form]
    write(tmp_path)
    official.prepare_official(name, tmp_path, tmp_path / "data", custom_data=True)
    return name, tmp_path / "data"


@pytest.mark.parametrize(
    "form", ["idx", "idx.gz", "svhn mat", "cifar10 python archive", "cifar100 binary folder"]
)
def test_a_prepared_set_is_what_was_written(form: str, tmp_path: Path) -> None:
    """Order aside: tensorflow-datasets shuffles once, when it writes."""
    name, data_dir = prepared(form, tmp_path)
    dataset = data.load_dataset(name, data_dir)
    for split, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.validation_images, dataset.validation_labels),
    ):
        want = originals.expected(name, split)
        pairs = zip(images.astype(np.float64), labels, strict=True)
        found = {(np.rint(image * 255).astype(np.uint8).tobytes(), int(y)) for image, y in pairs}
        pairs = zip(want.images, want.labels["label"], strict=True)
        assert found == {(image.tobytes(), int(y)) for image, y in pairs}
    assert "tensorflow" not in sys.modules


def test_the_stock_builder_reads_it(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    name, data_dir = prepared("cifar100 binary archive", tmp_path)
    builder: Any = tfds.builder(name, data_dir=str(data_dir))
    assert type(builder).__module__.startswith("tensorflow_datasets.")
    assert {split: part.num_examples for split, part in builder.info.splits.items()} == (
        originals.SIZES
    )
    want = originals.expected(name, "test")
    source = builder.as_data_source(split="test")
    for record in source:
        i = int(record["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(record["image"], want.images[i])
        assert record["coarse_label"] == want.labels["coarse_label"][i]


def test_it_is_prepared_once(tmp_path: Path) -> None:
    name, data_dir = prepared("idx", tmp_path)
    with pytest.raises(data.DataError, match=r"mnist is already prepared in .*--data-dir"):
        official.prepare_official(name, tmp_path, data_dir, custom_data=True)
    for path in tmp_path.glob("*ubyte"):
        path.unlink()
    assert len(data.load_dataset(name, data_dir).train_labels) == originals.SIZES["train"]


def test_several_may_prepare_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pass the first look at the same time; the lock decides who writes."""
    originals.write_idx(tmp_path)
    data_dir = tmp_path / "data"
    (data_dir / "mnist" / "incomplete.ABC_3.0.1").mkdir(parents=True)  # of a killed one
    raw = official.read_original_files("mnist", tmp_path, custom_data=True)
    write, calls = store._write_set, []

    def slowly(*arguments: Any) -> None:
        calls.append(arguments)
        time.sleep(0.3)
        write(*arguments)

    monkeypatch.setattr(store, "_write_set", slowly)
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(store.write_prepared, "mnist", raw, data_dir, False) for _ in range(2)
        ]
        folders = {future.result(timeout=60) for future in waiting}
    assert len(calls) == 1
    assert folders == {data_dir / "mnist" / "3.0.1"}
    assert os.listdir(data_dir / "mnist") == ["3.0.1"]


@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_damaged_set_is_named(damage: str, tmp_path: Path) -> None:
    name, data_dir = prepared("idx", tmp_path)
    (file,) = (data_dir / name).glob("*/mnist-train.array_record*")
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(data.DataError, match=rf"{file.parent}: cannot be read .*prepare it again"):
        data.load_dataset(name, data_dir)


def test_another_format_is_refused(tmp_path: Path) -> None:
    name, data_dir = prepared("idx", tmp_path)
    info = store.prepared_folder(name, data_dir) / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(data.DataError, match="has the format tfrecord, which needs TensorFlow"):
        data.load_dataset(name, data_dir)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    originals.write_idx(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(data.DataError, match=r"cannot write to .*file/data"):
        official.prepare_official("mnist", tmp_path, tmp_path / "file" / "data", custom_data=True)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    originals.write_idx(tmp_path)
    monkeypatch.setattr(store, "DATA_MODULES", ("PIL", "no_such_module"))
    with pytest.raises(
        data.DataError, match=r"no_such_module not found\. Run in the project.s folder: pip install"
    ):
        official.prepare_official("mnist", tmp_path, tmp_path, custom_data=True)


def test_the_cache_follows_the_user_s_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.default_data_dir() == tmp_path / "gtddp" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.default_data_dir() == tmp_path / ".cache" / "gtddp" / "data"


# The command.


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["data", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prepares_and_describes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    originals.write_cifar(tmp_path, "cifar10", "python", packed=True)
    place = ("--data-dir", tmp_path / "data")
    code, out, err = run(capsys, "cifar10", "--from", tmp_path, "--own", *place)
    assert (code, err) == (0, "")
    assert "cifar10: 10 training and 4 validation images 32x32x3, 10 classes\n" in out
    assert f"In {tmp_path}/data/cifar10/3.0.2 (" in out
    assert out.endswith(" MB): prepared from other data in the original format\n")
    assert run(capsys, "cifar10", *place) == (0, out, "")


def test_where_a_set_is_from_is_told(tmp_path: Path) -> None:
    name, data_dir = prepared("idx", tmp_path)
    origin = store.prepared_folder(name, data_dir) / store.ORIGIN_FILE
    origin.write_text(json.dumps({"original": True}))
    assert store.describe_prepared(name, data_dir).endswith("prepared from the original files")
    origin.unlink()
    assert store.describe_prepared(name, data_dir).endswith("prepared by another program")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10"], "To get it, put cifar-10-python.tar.gz or cifar-10-binary.tar.gz into a"),
        (["fashion_mnist"], "apt install dataset-fashion-mnist; or put the four idx files"),
        (
            ["mnist", "--from", "nowhere"],
            "nowhere is not a folder; a folder with the four idx files",
        ),
        (["svhn_cropped", "--from", "."], "does not hold svhn_cropped; a folder with train_32x32"),
        (["digits", "--from", "."], "digits comes with a Python package; it takes no --from."),
        (["mnist", "--own"], "--own goes with --from, the folder of your files."),
    ],
)
def test_absent_data_and_wrong_options(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    absent = {
        name: replace(entry, known_folders=()) for name, entry in official.OFFICIAL_DATASETS.items()
    }
    monkeypatch.setattr(official, "OFFICIAL_DATASETS", absent)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments, "--data-dir", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("gtddp: ") and message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_training_on_an_absent_set_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--dataset", "cifar100"]) == 2
    output = capsys.readouterr()
    assert "run: gtddp data cifar100 --from FOLDER" in output.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    not official.DEBIAN_FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist(tmp_path: Path) -> None:
    dataset = data.load_dataset("fashion_mnist", tmp_path)
    assert dataset.train_images.shape == (60_000, 28, 28, 1)
    assert dataset.validation_images.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(dataset.train_labels), np.full(10, 6000))
    np.testing.assert_array_equal(np.bincount(dataset.validation_labels), np.full(10, 1000))
    np.testing.assert_allclose(dataset.channel_mean, 0.2860, atol=5e-5)
    np.testing.assert_allclose(dataset.channel_std, 0.3530, atol=5e-5)
    assert store.describe_prepared("fashion_mnist", tmp_path).endswith(
        "prepared from the original files"
    )
