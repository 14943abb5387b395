"""Whole runs of ``gtddp train``."""

import contextlib
import io
import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtddp_lab.cli.main import main
from gtddp_lab.training.checkpoints import Checkpoints
from tests.conftest import child_environment

WATCHDOG_S = 240
FILES = [
    ".lock",
    "checkpoints",
    "config.yaml",
    "curves.png",
    "curves.svg",
    "metrics.jsonl",
    "network.json",
    "results.json",
    "tensorboard",
    "watched.json",
]


def _only_folder(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run of one epoch, and its output."""
    out = tmp_path_factory.mktemp("runs")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        options = ["--optimizer", "adam", "--schedule", "constant", "--weighting", "sketch"]
        options += ["--seeds", "1", "--rival", "none", "--epochs", "1", "--batch-size", "32"]
        assert main(["train", *options, "--out", str(out)]) == 0
    return _only_folder(out), printed.getvalue().splitlines()


@pytest.mark.slow
def test_one_epoch_writes_all_files(run: tuple[Path, list[str]]) -> None:
    folder, lines = run
    read = json.loads((folder / "results.json").read_text())
    assert lines[0].startswith("Adam and Implicit-Adam on digits")
    assert [line.split()[0] for line in lines[1:3]] == ["Adam", "Implicit-Adam"]
    assert "validation %" in "\n".join(lines[3:])
    assert lines[-1] == f"Results in {folder}"
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard" / "implicit-adam-seed0").iterdir())
    (start,) = read["starts"]
    assert start["packages"]["jax"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows if row["kind"] == "epoch"} == {"adam", "implicit-adam"}
    kept = Checkpoints(folder / "checkpoints" / "implicit-adam" / "seed-0")
    assert kept.steps == [44]
    assert read["status"] == "finished"
    assert set(read["compile_seconds"]) == {"adam", "implicit-adam"}
    base, game = read["epochs"]
    assert (base["method"], game["method"]) == ("adam", "implicit-adam")
    assert base["report"] == {}
    assert game["report"]["sample_weight_mean"] > 0
    assert min(base["validation_accuracy"], game["validation_accuracy"]) > 0.5
    assert base["sample_weights"] is None
    watched = json.loads((folder / "watched.json").read_text())["images"]
    assert game["sample_weights"]["images"] == len(watched) == 128
    assert set(start["seconds"]["implicit-adam"]) >= {"steps", "evaluation", "checkpoints"}


@pytest.mark.slow
def test_a_run_is_reported(
    run: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run writes everything that a report needs."""
    assert main(["report", str(run[0]), "--html", str(tmp_path / "page.html")]) == 0
    assert "Implicit-Adam: 95 % of the weights" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert "What is missing" not in page
    assert "<h3>residual-conv" in page
    assert page.count("<img ") == 16


@pytest.mark.slow
def test_a_run_is_drawn(
    run: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(run[0]), str(run[0]), "--out", str(tmp_path / "two.png")]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/two.png", f"{tmp_path}/two.svg"]
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert f"Implicit-Adam ({run[0].name})" in (tmp_path / "two.svg").read_text()


@pytest.mark.slow
def test_a_run_is_scored_and_resumed(
    run: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run[0], tmp_path / "copy"))
    before = json.loads((folder / "results.json").read_text())
    assert main(["eval", str(folder)]) == 0
    table = capsys.readouterr().out
    for record in before["epochs"]:
        assert f"{record['train_loss']:.4f}" in table
        assert f"{100 * record['validation_accuracy']:.2f}" in table
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"5\n\xff\n")
    assert main(["train", "--resume", str(folder), "--epochs", "2", "--watch", "0"]) == 0
    output, complaint = capsys.readouterr()
    assert "metrics.jsonl: lines 5, 6 are damaged (it is not a JSON object)" in complaint
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["method"], row["epoch"]) for row in rows if row["kind"] == "epoch"] == [
        (method, epoch) for epoch in (1, 2) for method in ("adam", "implicit-adam")
    ]
    lines = output.splitlines()
    assert lines[1].split() == ["Adam", "seed", "0", "from", "step", "44"]
    after = json.loads((folder / "results.json").read_text())
    assert [(r["method"], r["epoch"]) for r in after["epochs"]] == [
        (method, epoch) for method in ("adam", "implicit-adam") for epoch in (1, 2)
    ]
    assert [r for r in after["epochs"] if r["epoch"] == 1] == before["epochs"]
    assert len(after["starts"]) == 2
    assert main(["train", "--resume", str(folder), "--epochs", "1"]) == 2
    assert "--epochs can only be raised" in capsys.readouterr().err


def test_a_disk_that_is_full_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gtddp_lab.cli.train_command.write_atomically", full)
    assert main(["train", "--base-only", "--out", str(tmp_path)]) == 1
    assert "No space left on device.\n" in capsys.readouterr().err


@pytest.mark.slow
def test_several_games_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--game", "implicit", "sequential", "--weighting", "full", "--optimizer", "sgd"]
    sizes = ["--epochs", "1", "--batch-size", "64", "--seeds", "1", "--watch", "0"]
    options += ["--rival", "none", "--out", str(tmp_path)]
    assert main(["train", *options, *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("SGD, Implicit-SGD and GT-DDP-SGD on digits, batch size 64")
    assert "weighting full" in lines[0]
    labels = ["SGD", "Implicit-SGD", "GT-DDP-SGD"]
    assert [line.split()[0] for line in lines[1:4]] == labels
    (heading,) = (i for i, line in enumerate(lines) if line.split()[:1] == ["method"])
    # A rule, and the rows up to a blank line.
    rows = itertools.takewhile(str.strip, lines[heading + 2 :])
    assert [line.split()[0] for line in rows] == labels
    ended = [line.split(" ended with ")[0] for line in lines if " ended with " in line]
    assert ended == labels[1:]
    read = json.loads((_only_folder(tmp_path) / "results.json").read_text())
    assert [epoch["method"] for epoch in read["epochs"]] == ["sgd", "implicit-sgd", "gtddp-sgd"]
    assert read["experiment"]["games"] == ["none", "implicit", "sequential"]
    assert read["experiment"]["settings"]["weighting"] == "full"
    report = read["epochs"][1]["report"]
    assert report["sample_weight_min"] < 1 < report["sample_weight_max"]


@pytest.fixture
def endless_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that does not end by itself; it is killed after the test in any case."""
    options = ["--optimizer", "sgd", "--base-only", "--epochs", "1000000", "--batch-size", "128"]
    options += ["--seeds", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gtddp_lab", "train", *options, "--out", str(tmp_path)],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(WATCHDOG_S, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_ctrl_c_keeps_the_epochs_so_far(tmp_path: Path, endless_run: subprocess.Popen[str]) -> None:
    assert endless_run.stdout is not None
    for line in endless_run.stdout:
        if "epoch 2/" in line:
            break
    endless_run.send_signal(signal.SIGINT)
    rest, complaint = endless_run.communicate(timeout=60)
    assert endless_run.returncode == 130
    assert (
        complaint.strip() == "Stopping after the current steps. Press Ctrl-C again to stop at once."
    )
    folder = _only_folder(tmp_path)
    assert rest.splitlines()[-2:] == [
        f"To resume: gtddp train --resume {folder}",
        f"Results in {folder}",
    ]
    files = [file for file in FILES if file != "watched.json"]  # a base optimizer has no weights
    assert sorted(file.name for file in folder.iterdir()) == files
    read = json.loads((folder / "results.json").read_text())
    assert read["status"] == "interrupted"
    assert [epoch["epoch"] for epoch in read["epochs"]] == list(range(1, len(read["epochs"]) + 1))
    assert len(read["epochs"]) >= 2
