"""Progress, table and Ctrl-C, without training."""

import io
import signal
from dataclasses import replace

import pytest
from rich.console import Console

from gtddp_lab.cli.interrupt import deferred_interrupts
from gtddp_lab.cli.result_table import skipped_step_warnings, summary_table
from gtddp_lab.cli.screen import progress_display
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord, TrainingUnit, TrainProgress, UnitResumed
from gtddp_lab.training.run_summary import summarize_records
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.totals import EpochFigures


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        dataset="digits",
        network="residual-conv",
        optimizer="rmsprop",
        games=("none", "sequential"),
        settings=TrainSettings(0.001),
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


def test_plain_lines_without_a_terminal(
    experiment: Experiment, records: list[EpochRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_display(Console(file=io.StringIO()), experiment) as show:
        for record in records:
            show(record)
    lines = capsys.readouterr().out.splitlines()
    scores = "epoch 1/1  train loss 0.2500  validation 97.50 %  0.1 s"
    assert lines[:2] == [f"RMSprop         seed 0  {scores}", f"GT-DDP-RMSprop  seed 0  {scores}"]


FIGURES = EpochFigures(
    0.375, {"sample_weight_min": 0.5, "sample_weight_max": 1.75, "skipped_steps": 3.0}
)
HALF_WAY = TrainProgress(TrainingUnit("gtddp-rmsprop", (0,)), 5, 10, 1, 0.5, 400, (FIGURES,))


def test_bars_on_a_terminal(experiment: Experiment, records: list[EpochRecord]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=160)
    with progress_display(console, experiment) as show:
        for record in records:
            unit = TrainingUnit(record.method, (record.seed,))
            show(HALF_WAY._replace(unit=unit, step=10))
            show(record)
    *_, first, second, third, fourth, show_cursor = screen.getvalue().splitlines()
    assert show_cursor == "\x1b[?25h"
    for line in (first, second, third, fourth):
        assert "train loss 0.2500  validation 97.50 %" in line
        assert "loss 0.3750  800 images/s  weights 0.50-1.75  3 skipped" in line


def test_bars_show_where_a_resumed_run_starts(
    experiment: Experiment, records: list[EpochRecord]
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=160)
    with progress_display(console, experiment) as show:
        show(UnitResumed(TrainingUnit("rmsprop", (0,)), 10, (records[0],)))
    assert "train loss 0.2500  validation 97.50 % from step 10" in screen.getvalue()


def test_long_epochs_print_progress(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_display(Console(file=io.StringIO()), experiment) as show:
        show(HALF_WAY)
        assert capsys.readouterr().out == ""
        monkeypatch.setattr("gtddp_lab.cli.screen.SECONDS_BETWEEN_LINES", 0.0)
        show(HALF_WAY)
    expected = "seed 0  step 5/10  loss 0.3750  800 images/s  weights 0.50-1.75  3 skipped\n"
    assert capsys.readouterr().out == f"GT-DDP-RMSprop  {expected}"


def test_the_table_fits_a_narrow_terminal(
    experiment: Experiment, records: list[EpochRecord]
) -> None:
    screen = io.StringIO()
    Console(file=screen, width=80).print(summary_table(experiment, summarize_records(records)))
    text = screen.getvalue()
    assert "GT-DDP-RMSprop" in text
    assert "97.50 ± 0.00" in text
    assert "0.2500 ± 0.0000" in text
    assert "seeds: 2, epochs: 1; mean ± standard error" in " ".join(text.split())
    assert "…" not in text


def test_the_longest_label_fits_too(experiment: Experiment, records: list[EpochRecord]) -> None:
    experiment = replace(experiment, optimizer="schedule_free", games=("none", "implicit"))
    names = {"rmsprop": "schedule_free", "gtddp-rmsprop": "implicit-schedule_free"}
    rows = [replace(r, method=names[r.method], train_loss=1e-6 * r.train_loss) for r in records]
    screen = io.StringIO()
    Console(file=screen, width=80).print(summary_table(experiment, summarize_records(rows)))
    assert "Implicit-schedule-free AdamW" in screen.getvalue()
    assert "2.5e-07 ± 0e+00" in screen.getvalue()
    assert "…" not in screen.getvalue()


def test_methods_of_unequal_length_are_told(
    experiment: Experiment, records: list[EpochRecord]
) -> None:
    rows = [r for r in records if r.method == records[0].method or r.seed == records[0].seed]
    screen = io.StringIO()
    Console(file=screen, width=80).print(summary_table(experiment, summarize_records(rows)))
    assert "2 × " in screen.getvalue() and "1 × " in screen.getvalue()


def test_skipped_steps_are_reported(experiment: Experiment, records: list[EpochRecord]) -> None:
    base, game = skipped_step_warnings(experiment, summarize_records(records))
    assert base == "RMSprop skipped 6 steps: numbers were not finite."
    assert game.startswith("GT-DDP-RMSprop skipped 6 steps")


def test_the_first_ctrl_c_is_deferred_the_second_raised() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_deferred() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with deferred_interrupts() as interrupted:
        signal.raise_signal(signal.SIGTERM)
        assert interrupted()
    assert signal.getsignal(signal.SIGTERM) is before
