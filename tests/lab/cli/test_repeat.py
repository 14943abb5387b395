"""The same command in two processes gives the same run, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gtddp_lab.training.checkpoints import Checkpoints
from tests.conftest import child_environment

TIMEOUT_S = 240
OPTIONS = [
    "--optimizer",
    "adam",
    "--game",
    "sequential",
    "implicit",
    "--network",
    "residual-mlp",
    "--batch-size",
    "64",
    "--seeds",
    "1",
    "--rival",
    "none",
]
CLOCK = {"seconds", "images_per_second", "time", "stamp"}
"""Fields that hold times, which differ between runs."""


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in CLOCK}


def checksums(folder: Path) -> dict[str, int]:
    """The CRC-32 of every array in the only checkpoint of a folder."""
    (step,) = Checkpoints(folder).steps
    file = folder / str(step) / "meta" / "metadata"
    return json.loads(file.read_text())["checksums"]


@pytest.mark.slow
def test_a_command_repeats_its_run(tmp_path: Path) -> None:
    """Compares records, watched weights and the checksums of all arrays in the checkpoints."""
    folders = [tmp_path / "one", tmp_path / "two"]
    command = [sys.executable, "-m", "gtddp_lab", "train", *OPTIONS, "--epochs", "1", "--out"]
    runs = [
        subprocess.Popen(
            [*command, str(folder)],
            env=child_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    try:
        for process in runs:
            _, complaint = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, complaint
    finally:
        for process in runs:
            process.kill()
            process.wait()
    one, two = (next(folder.iterdir()) for folder in folders)
    for name in ("watched.json", "network.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (one, two)]
    rows = [[without_times(json.loads(line)) for line in file] for file in lines]
    assert rows[0] == rows[1] and len(rows[0]) >= 2
    for method in ("adam", "implicit-adam"):
        sums = [checksums(run / "checkpoints" / method / "seed-0") for run in (one, two)]
        assert sums[0] == sums[1] and len(sums[0]) > 20
