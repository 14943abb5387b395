"""The command ``gtddp train``."""

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from gtddp_lab.cli.cli_errors import RunError, UsageError
from gtddp_lab.cli.config import options_as_yaml
from gtddp_lab.cli.interrupt import CONTINUATION, deferred_interrupts
from gtddp_lab.cli.options import TrainOptions
from gtddp_lab.cli.processes import ProcessGroup, join_process_group, without_placement
from gtddp_lab.cli.result_table import skipped_step_warnings, summary_table
from gtddp_lab.cli.screen import progress_display
from gtddp_lab.cli.setup import TrainSetup, check_resumed_epochs, set_up_training
from gtddp_lab.core import distributed
from gtddp_lab.core.files import write_atomically
from gtddp_lab.training import results
from gtddp_lab.training.checkpoints import CheckpointError, Checkpoints
from gtddp_lab.training.clock import RunClock
from gtddp_lab.training.description import describe_stages
from gtddp_lab.training.experiment import Experiment, run_comparison
from gtddp_lab.training.json_lines import LogError
from gtddp_lab.training.logs import open_logs
from gtddp_lab.training.plots import curves_of, draw_curves
from gtddp_lab.training.provenance import collect_provenance
from gtddp_lab.training.records import EpochRecord, TrainingUnit, UnitResumed
from gtddp_lab.training.run_folder import RunFolder, RunFolderError, existing_folder, new_folder
from gtddp_lab.training.run_summary import summarize_records
from gtddp_lab.training.verdict import describe_findings


class TrainOutcome(NamedTuple):
    """End of a run: its folder, and whether it was stopped before the last epoch."""

    folder: RunFolder
    interrupted: bool


def train_methods(options: TrainOptions) -> TrainOutcome:
    """Trains all methods, shows the progress, and writes table, curves, results and checkpoints.

    Raises:
        UsageError: If the value of an option cannot be used; nothing has been written then.
        RunError: If the run folder cannot be written, or a checkpoint cannot be used.
    """
    with join_process_group(options) as processes:
        clock = RunClock()
        with clock.measure("", "loading"):
            setup = set_up_training(options, processes.placement)
        if processes.leads:
            return _run_leader(setup, processes, clock)
        return _run_follower(setup, processes)


def _run_leader(setup: TrainSetup, processes: ProcessGroup, clock: RunClock) -> TrainOutcome:
    """Runs in the process that shows the progress and writes; usually the only process."""
    try:
        folder, starts = _open_folder(setup)
        # Only this process names the folder; the others learn it here.
        folder = RunFolder(Path(distributed.broadcast_text(os.fspath(folder.path.absolute()))))
    except RunFolderError as error:
        raise UsageError(str(error)) from error
    try:
        with folder.locked():
            starts = [*starts, collect_provenance()]
            return _TrainRun(setup, folder, starts, processes, clock).run()
    except (CheckpointError, RunFolderError, LogError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"cannot write to {folder.path}: {reason}.") from error


def _run_follower(setup: TrainSetup, processes: ProcessGroup) -> TrainOutcome:
    """Runs the same steps in another process, which writes only its part of the checkpoints."""
    folder = RunFolder(Path(distributed.broadcast_text("")))
    epochs = 0
    try:
        with deferred_interrupts() as interrupted:
            comparison = run_comparison(
                setup.experiment,
                setup.trainers,
                setup.plan,
                _checkpoint_opener(setup, folder),
                stop=processes.any_stops(interrupted),
            )
            # Drives the training; the leader shows and logs the events.
            with closing(comparison) as events:
                for event in events:
                    epochs += len(event.records) if isinstance(event, UnitResumed) else 0
                    epochs += isinstance(event, EpochRecord)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    return TrainOutcome(folder, epochs < _total_epochs(setup.experiment))


def _total_epochs(experiment: Experiment) -> int:
    """The number of epochs of all units together."""
    return len(experiment.methods()) * len(experiment.seeds) * experiment.epochs


def _checkpoint_opener(
    setup: TrainSetup, folder: RunFolder
) -> Callable[[TrainingUnit], Checkpoints]:
    keep, keep_best = setup.options.keep, setup.options.keep_best
    return lambda unit: Checkpoints(folder.checkpoint_folder(unit), keep, keep_best)


def _open_folder(setup: TrainSetup) -> tuple[RunFolder, list[dict[str, Any]]]:
    """The folder of the run, and the provenance of its earlier starts."""
    options, experiment = setup.options, setup.experiment
    if options.resume is None:
        return new_folder(options.out, f"{experiment.dataset}-{experiment.optimizer}"), []
    folder = existing_folder(options.resume)
    if not folder.results_file.exists():
        return folder, []
    try:
        before, _, content = results.read_results(folder.results_file)
    except results.ResultsError as error:
        raise UsageError(str(error)) from error
    check_resumed_epochs(before, options, folder.path)
    return folder, content["starts"]


class _TrainRun:
    """One call of the command, after all checks."""

    def __init__(
        self,
        setup: TrainSetup,
        folder: RunFolder,
        starts: list[dict[str, Any]],
        processes: ProcessGroup,
        clock: RunClock,
    ) -> None:
        self._setup, self._folder, self._starts = setup, folder, starts
        self._processes, self._clock = processes, clock
        self._records: list[EpochRecord] = []
        self._console = Console()

    def run(self) -> TrainOutcome:
        experiment = self._setup.experiment
        options = without_placement(self._setup.options)
        write_atomically(self._folder.config_file, options_as_yaml(options))
        CONTINUATION.command = resume_command(self._folder)
        self._write_descriptions()
        print(describe_run(experiment), flush=True)
        try:
            with deferred_interrupts() as interrupted:
                self._train_units(interrupted)
                stopped = len(self._records) < _total_epochs(experiment)
                self._save_results("interrupted" if stopped else "finished")
                self._draw_curves()
        except BaseException as error:
            is_stop = isinstance(error, KeyboardInterrupt)
            self._try_to_save_results("interrupted" if is_stop else "failed")
            raise
        self._print_conclusion(stopped)
        return TrainOutcome(self._folder, stopped)

    def _write_descriptions(self) -> None:
        """Writes what the report needs besides the results."""
        trainer, images = self._setup.trainers[-1], self._setup.plan.watch
        results.write_json(self._folder.network_file, describe_stages(trainer.stages))
        if images and trainer.method.has_sample_weights:
            results.write_json(self._folder.watched_file, trainer.watched_pictures(images))

    def _train_units(self, interrupted: Callable[[], bool]) -> None:
        setup, folder = self._setup, self._folder
        with ExitStack() as stack:
            logs = stack.enter_context(open_logs(folder.path))
            for note in logs.notes:
                print(f"gtddp: {note}", file=sys.stderr)
            show_event = stack.enter_context(progress_display(self._console, setup.experiment))
            comparison = run_comparison(
                setup.experiment,
                setup.trainers,
                setup.plan,
                _checkpoint_opener(setup, folder),
                stop=self._processes.any_stops(interrupted),
                trace=lambda: jax.profiler.trace(os.fspath(folder.path / "profile")),
                clock=self._clock,
            )
            # Closed here after an error too, which waits for the checkpoint that is being written.
            for event in stack.enter_context(closing(comparison)):
                logs.write_event(event)
                show_event(event)
                if isinstance(event, UnitResumed):
                    self._records += event.records
                if isinstance(event, EpochRecord):
                    self._records.append(event)
                    # Saved after every epoch, so that a killed run leaves its results behind.
                    self._save_results("running")

    def _save_results(self, status: str) -> None:
        self._starts[-1]["seconds"] = self._clock.seconds
        compile_seconds = {
            trainer.method.name: trainer.compile_seconds for trainer in self._setup.trainers
        }
        content = results.results_document(
            self._setup.experiment, self._records, compile_seconds, status, self._starts
        )
        results.write_json(self._folder.results_file, content)

    def _try_to_save_results(self, status: str) -> None:
        # The run has failed already: a second error would hide the first.
        with suppress(OSError):
            self._save_results(status)

    def _draw_curves(self) -> None:
        experiment = self._setup.experiment
        curves = curves_of(experiment, self._records)
        for kind in ("png", "svg"):
            draw_curves(self._folder.curves_file(kind), experiment.title, curves)

    def _print_conclusion(self, stopped: bool) -> None:
        experiment = self._setup.experiment
        summaries = summarize_records(self._records)
        self._console.print(summary_table(experiment, summaries))
        for sentence in describe_findings(experiment, self._records):
            self._console.print(sentence, highlight=False, soft_wrap=True)
        for warning in skipped_step_warnings(experiment, summaries):
            print(warning)
        if stopped:
            print(f"To resume: {resume_command(self._folder)}")
        print(f"Results in {self._folder.path}")


def resume_command(folder: RunFolder) -> str:
    """The command that resumes a run, as typed."""
    return shlex.join(["gtddp", "train", "--resume", os.fspath(folder.path)])


def describe_run(experiment: Experiment) -> str:
    """Describes the run that is about to start, in one line."""
    *first, last = (method.label for method in experiment.methods())
    names = f"{', '.join(first)} and {last}" if first else last
    seeds = ", ".join(map(str, experiment.seeds))
    return f"{names} on {experiment.title}, epochs {experiment.epochs}, seeds {seeds}"
