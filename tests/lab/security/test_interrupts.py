"""Ctrl-C ends every command with exit code 130 and names the command that goes on."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gtddp_lab.cli import main as command_main
from gtddp_lab.cli import train_command
from gtddp_lab.cli.interrupt import exit_at_interrupts
from gtddp_lab.cli.main import main
from gtddp_lab.training.run_folder import RunFolder
from tests.conftest import child_environment

COMMANDS = {
    "train": (["train", "--base-only"], "gtddp_lab.cli.train_command.set_up_training"),
    "eval": (["eval", "some run"], "gtddp_lab.cli.evaluate_command.existing_folder"),
    "plot": (["plot", "a", "b"], "gtddp_lab.cli.plot_command.check_entries"),
    "report": (["report", "a", "--html"], "gtddp_lab.cli.report_command.read_runs"),
    "reproduce": (
        ["reproduce", "table2", "--seeds", "3"],
        "gtddp_lab.studies.study_report.look_up",
    ),
    "data": (["data", "digits"], "gtddp_lab.cli.data_command.load_dataset"),
}
"""A command line of each command, and a function that it calls."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_how_to_go_on(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments, called = COMMANDS[name]

    def press(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(called, press)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    assert main(arguments) == 130
    shown = " ".join(f"'{word}'" if " " in word else word for word in arguments)
    assert capsys.readouterr().err == (
        f"gtddp: interrupted; what was finished is kept. To go on: gtddp {shown}\n"
    )
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_run_names_its_folder(
    begun: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def press(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    run = object.__new__(train_command._TrainRun)
    run._folder = RunFolder(tmp_path)
    monkeypatch.setattr(train_command, "options_as_yaml", lambda options: "")
    monkeypatch.setattr(train_command, "without_placement", lambda options: options)
    run._setup = SimpleNamespace(options=None, experiment=None)  # type: ignore[assignment]
    monkeypatch.setattr(train_command._TrainRun, "_write_descriptions", press)

    def train(arguments: Any) -> int:
        if begun:
            run.run()
        raise KeyboardInterrupt

    monkeypatch.setattr(command_main, "_run_command", train)
    assert main(["train", "--out", "all runs"]) == 130
    expected = f"train --resume {tmp_path}" if begun else "train --out 'all runs'"
    assert capsys.readouterr().err.endswith(f"To go on: gtddp {expected}\n")


IN_A_CALLBACK = """
import gc, signal, sys
from gtddp_lab.cli import main
from gtddp_lab.core.files import replacing_file
from pathlib import Path

def press(*arguments):
    signal.raise_signal(signal.SIGINT)

def run(arguments):
    with replacing_file(Path(sys.argv[2])) as file:
        file.write(b"half")
        file.flush()
        gc.callbacks.append(press)
        gc.collect()
    return 7

main._run_command = run
raise SystemExit(main.main())
"""


def test_an_interrupt_within_a_callback_is_not_lost(tmp_path: Path) -> None:
    """JAX has such callbacks; Python forgets exceptions that are raised there."""
    result = subprocess.run(
        [sys.executable, "-c", IN_A_CALLBACK, "plot", str(tmp_path / "file")],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = f"interrupted; what was finished is kept. To go on: gtddp plot {tmp_path}/file\n"
    assert (result.returncode, result.stderr) == (130, f"gtddp: {expected}")
    assert not list(tmp_path.iterdir())  # the half-written file is gone


def test_a_process_that_ignores_interrupts_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        exit_at_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_process_ends_without_taking_down_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads of XLA may still run; only a command line of the process itself ends it."""
    ended: list[int] = []
    monkeypatch.setattr(command_main, "_run_command", lambda arguments: 130)
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr(command_main, "exit_at_interrupts", lambda: None)
    main(["plot"])
    assert ended == []
    monkeypatch.setattr(sys, "argv", ["gtddp", "plot"])
    main()
    assert ended == [130]


@pytest.mark.parametrize("presses", [1, 2])
def test_a_study_is_interrupted(presses: int, tmp_path: Path) -> None:
    """In a process of its own, within the first steps; nothing is left half written."""
    arguments = ["reproduce", "figure6", "--quick", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "gtddp_lab", *arguments],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "figure6 ...\n"
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
    assert process.returncode == 130, complaint
    assert complaint == (
        f"gtddp: interrupted; what was finished is kept. To go on: gtddp {' '.join(arguments)}\n"
    )
    assert not list((tmp_path / "out").rglob(".*"))
