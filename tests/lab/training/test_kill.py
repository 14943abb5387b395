"""Runs that are killed (SIGKILL) at random moments, while training and while saving."""

import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import chex
import pytest

from gtddp_lab.training.checkpoints import Checkpoints
from gtddp_lab.training.state import RunState
from tests.conftest import child_environment
from tests.lab.training.killed_run import STEPS_PER_EPOCH, build

SCRIPT = Path(__file__).with_name("killed_run.py")
LONGEST_S = 300
LATEST_KILL_S = 0.5


def start(folder: Path, game: str, epochs: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), game, str(epochs)],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_until_killed(folder: Path, game: str, epochs: int, delay: float) -> tuple[list[int], int]:
    """Kills a run some time after its first save; returns the started saves and the exit code."""
    process = start(folder, game, epochs)
    watchdog = threading.Timer(LONGEST_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(delay)
        process.kill()
        rest, complaint = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
    assert first, complaint
    return [int(step) for step in re.findall(r"saving (\d+)\n", first + rest)], process.returncode


def run_to_the_end(folder: Path, game: str, epochs: int) -> None:
    process = start(folder, game, epochs)
    try:
        _, complaint = process.communicate(timeout=LONGEST_S)
    finally:
        process.kill()
    assert process.returncode == 0, complaint


def complete(folder: Path) -> list[int]:
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def final(folder: Path, game: str, epochs: int) -> RunState:
    with Checkpoints(folder) as kept:
        saved = kept.restore(build(game).start((0,)))
    assert saved is not None
    assert saved.step == epochs * STEPS_PER_EPOCH
    return saved.state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "game", "epochs"),
    [(1, "none", 10), pytest.param(8, "sequential", 32, marks=pytest.mark.slow)],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, kills: int, game: str, epochs: int
) -> None:
    """All complete saves survive, and the final state is the same, bit for bit."""
    draw = random.Random(0)
    killed = tmp_path / "killed"
    landed = 0
    for _ in range(kills):
        begun, code = run_until_killed(killed, game, epochs, delay=draw.uniform(0, LATEST_KILL_S))
        landed += code == -9
        newest = complete(killed)[-1] if complete(killed) else 0
        assert newest >= ([0, *begun][-2] if len(begun) > 1 else 0)
    assert landed >= 0.8 * kills  # the others had reached the end
    run_to_the_end(killed, game, epochs)
    run_to_the_end(tmp_path / "whole", game, epochs)
    left, right = final(killed, game, epochs), final(tmp_path / "whole", game, epochs)
    chex.assert_trees_all_equal(left, right)
    names = [entry.name for entry in killed.iterdir()]
    assert all(name.isdigit() for name in names), names
