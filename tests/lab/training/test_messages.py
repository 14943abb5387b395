"""Error messages that need unusual files or machines, one test per message."""

import errno
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from scipy.io import savemat

import gtddp_jax as gt
from gtddp_lab.cli import train_command
from gtddp_lab.cli.main import main
from gtddp_lab.core import distributed
from gtddp_lab.data import DataError
from gtddp_lab.data.official import read_original_files
from gtddp_lab.data.raw import RawSet, original_files, svhn
from gtddp_lab.data.store import write_prepared
from gtddp_lab.report.sources import ReportError, read_run_text
from gtddp_lab.studies.figures import figure6c, figure7b
from gtddp_lab.studies.section import StudyOptions
from gtddp_lab.studies.step_timing import compile_step
from tests.lab.data import originals


def test_a_figure_without_any_of_its_data(tmp_path: Path) -> None:
    options = StudyOptions(out=tmp_path, datasets=("cifar10",), say=lambda line: None)
    with pytest.raises(DataError, match="figure 6c: none of the data sets can be used: cifar10"):
        figure6c.study_figure6c(options)
    with pytest.raises(DataError, match="figure 7b: none of the data sets can be used: cifar10"):
        figure7b.study_figure7b(options)


def test_a_backend_without_memory_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    program = SimpleNamespace(memory_analysis=lambda: None)
    lowered = SimpleNamespace(compile=lambda: program)
    monkeypatch.setattr(jax, "jit", lambda step: SimpleNamespace(lower=lambda *a: lowered))
    with pytest.raises(RuntimeError, match=r"The backend 'cpu' reports no memory plan\."):
        compile_step(lambda: None)


@pytest.mark.parametrize("bounds", [(2.0, 3.0), (-1.0, 2.0), (0.1, 1.0)])
def test_bounds_that_exclude_weight_one_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"give \(smallest, largest\) with 0 <= smallest < 1"):
        gt.terminal.ExactLoss(bounds=bounds)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"data", [1, 2], r"its entry 'data' must be an array of shape \[N, 3072\]\."),
        (b"labels", [b"a"], r"its entry 'labels' must be a list of numbers\."),
    ],
)
def test_entries_of_cifar(key: bytes, value: Any, message: str, tmp_path: Path) -> None:
    originals.write_cifar(tmp_path, "cifar10", "python", packed=False)
    (path,) = tmp_path.rglob("data_batch_1")
    entries: dict[bytes, Any] = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]}
    path.write_bytes(originals.python2_pickle(entries | {key: value}))
    with pytest.raises(DataError, match=message):
        read_original_files("cifar10", tmp_path, custom_data=True)


def test_an_archive_with_a_file_twice(tmp_path: Path) -> None:
    contents = originals.cifar_files("cifar10", "python")
    inner, packed = originals.FOLDERS["cifar10", "python"]
    named = {f"{inner}/{name}": content for name, content in contents.items()}

    def again(archive: tarfile.TarFile) -> None:
        archive.addfile(tarfile.TarInfo(f"{inner}/data_batch_1"), io.BytesIO())

    originals.write_archive(tmp_path / packed, named, again)
    with pytest.raises(DataError, match=r"holds cifar-10-batches-py/data_batch_1 twice\."):
        read_original_files("cifar10", tmp_path, custom_data=True)


def test_read_errors_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"here: cannot be read \(Is a directory\)\."):
        _read(tmp_path.open)
    with pytest.raises(DataError, match=r"here: is corrupt \(strange\)\."):
        _read(_strange)


def _read(how: Callable[[], Any]) -> None:
    with original_files.errors_naming_path("here"):
        how()


def _strange() -> None:
    raise tarfile.TarError("strange")


def test_matlab_files_with_other_numbers() -> None:
    stream = io.BytesIO()
    savemat(stream, {"X": np.zeros((32, 32, 3, 1)), "y": np.ones((1, 1), np.uint8)})
    with pytest.raises(DataError, match="X must be uint8 and y numeric, got float64 and uint8"):
        svhn.parse_svhn_file(stream.getvalue(), "file")


def test_places_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match=rf"cannot write to {file}/below: Not a directory\."):
        write_prepared("mnist", RawSet({}), file / "below", original=False)
    with pytest.raises(ReportError, match=r"config\.yaml cannot be read: Not a directory\."):
        read_run_text(file, "config.yaml", 10)


@pytest.mark.slow
def test_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(train_command._TrainRun, "run", full)
    assert main(["train", "--base-only", "--epochs", "1", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"gtddp: cannot write to {tmp_path}/")
    assert error.endswith(": No space left on device.\n")


def test_a_coordinator_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no such address")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    message = r"process 1 of 2 cannot use the coordinator nowhere:1 \(no such address\)\."
    with pytest.raises(distributed.DistributedError, match=message):
        distributed.join_processes(distributed.ProcessCoordinates("nowhere:1", 2, 1))


def test_several_processes_use_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: ["one", "two"])
    message = "with 2 processes all 2 devices take part; choose the devices of each process"
    with pytest.raises(distributed.DistributedError, match=message):
        distributed.data_mesh(1)
