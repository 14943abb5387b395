"""Progress, table and Ctrl-C, without training."""

import io
import signal
from dataclasses import replace

import pytest
from rich.console import Console

from gtddp_cli.interrupt import noted_interrupts
from gtddp_cli.screen import progress
from gtddp_cli.table import table, warnings
from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.summary import summarise


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        dataset="digits",
        network="residual-conv",
        optimizer="rmsprop",
        games=("none", "sequential"),
        settings=Settings(0.001),
        epochs=1,
        batch_size=8,
        seeds=(0, 1),
    )


@pytest.fixture
def records(experiment: Experiment) -> list[EpochRecord]:
    return [
        EpochRecord(method.name, seed, 1, 0.25, 0.5, 0.3, 0.975, 0.1, {"skipped_steps": 3.0})
        for seed in experiment.seeds
        for method in experiment.methods()
    ]


def test_lines_where_there_is_no_terminal(
    experiment: Experiment, records: list[EpochRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(Console(file=io.StringIO()), experiment) as show:
        for record in records:
            show(record)
    lines = capsys.readouterr().out.splitlines()
    scores = "epoch 1/1  train loss 0.2500  validation 97.50 %  0.1 s"
    assert lines[:2] == [f"RMSprop         seed 0  {scores}", f"GT-DDP-RMSprop  seed 0  {scores}"]


def test_bars_on_a_terminal(experiment: Experiment, records: list[EpochRecord]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=120)
    with progress(console, experiment) as show:
        for record in records:
            show(record)
    *_, first, second, third, fourth, show_cursor = screen.getvalue().splitlines()
    assert show_cursor == "\x1b[?25h"
    for line in (first, second, third, fourth):
        assert "1/1 train loss 0.2500  validation 97.50 %" in line


def test_the_table_fits_a_narrow_terminal(
    experiment: Experiment, records: list[EpochRecord]
) -> None:
    screen = io.StringIO()
    Console(file=screen, width=80).print(table(experiment, summarise(records)))
    text = screen.getvalue()
    assert "GT-DDP-RMSprop" in text
    assert "97.50 ± 0.00" in text
    assert "…" not in text


def test_the_longest_label_fits_too(experiment: Experiment, records: list[EpochRecord]) -> None:
    experiment = replace(experiment, games=("none", "implicit"))
    rows = [replace(r, method=r.method.replace("gtddp", "implicit")) for r in records]
    screen = io.StringIO()
    Console(file=screen, width=80).print(table(experiment, summarise(rows)))
    assert "Implicit-RMSprop" in screen.getvalue()
    assert "…" not in screen.getvalue()


def test_skipped_steps_are_told(experiment: Experiment, records: list[EpochRecord]) -> None:
    base, game = warnings(experiment, summarise(records))
    assert base == "RMSprop skipped 6 steps: numbers were not finite."
    assert game.startswith("GT-DDP-RMSprop skipped 6 steps")


def test_the_first_ctrl_c_is_noted_and_the_second_raised() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noted_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
