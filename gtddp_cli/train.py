"""The command ``gtddp train``."""

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from gtddp_cli.config import as_yaml
from gtddp_cli.errors import RunError, UsageError
from gtddp_cli.interrupt import noted_interrupts
from gtddp_cli.options import Train
from gtddp_cli.processes import Team, anywhere, team
from gtddp_cli.screen import progress
from gtddp_cli.setup import Setup, check_resumed, set_up
from gtddp_cli.table import table, warnings
from gtddp_jax.training import distributed, results
from gtddp_jax.training.checkpoints import CheckpointError, Checkpoints
from gtddp_jax.training.clock import Clock
from gtddp_jax.training.description import described
from gtddp_jax.training.experiment import Experiment, compare
from gtddp_jax.training.files import write_whole
from gtddp_jax.training.logs import logging_to
from gtddp_jax.training.plots import curves_of, draw
from gtddp_jax.training.provenance import provenance
from gtddp_jax.training.records import EpochRecord, Resumed, Unit
from gtddp_jax.training.run_folder import RunFolder, RunFolderError, existing_folder, new_folder
from gtddp_jax.training.summary import summarise


class Outcome(NamedTuple):
    """How a run ended: its folder, and whether it was stopped before its last epoch."""

    folder: RunFolder
    interrupted: bool


def train(options: Train) -> Outcome:
    """Trains, shows the progress, and leaves table, curves, results and checkpoints behind.

    Raises:
        UsageError: If an option's value cannot be used; nothing has been written then.
        RunError: If the run folder cannot be written, or a checkpoint not be used.
    """
    with team(options) as members:
        clock = Clock()
        with clock.part("", "loading"):
            setup = set_up(options, members.placement)
        return _lead(setup, members, clock) if members.leads else _follow(setup, members)


def _lead(setup: Setup, members: Team, clock: Clock) -> Outcome:
    """The run, in the process that shows and writes; the only one, as a rule."""
    try:
        folder, starts = _folder(setup)
        folder = RunFolder(Path(distributed.agree(os.fspath(folder.path.absolute()))))
    except RunFolderError as error:
        raise UsageError(str(error)) from error
    try:
        with folder.locked():
            return _Run(setup, folder, [*starts, provenance()], members, clock).run()
    except (CheckpointError, RunFolderError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"cannot write to {folder.path}: {reason}.") from error


def _follow(setup: Setup, members: Team) -> Outcome:
    """The same run in any other process, which writes nothing but its part of checkpoints."""
    folder = RunFolder(Path(distributed.agree("")))
    epochs = 0
    try:
        with noted_interrupts() as interrupted:
            stop = members.agreed(interrupted)
            for event in compare(
                setup.experiment, setup.trainers, setup.plan, _checkpoints(setup, folder), stop
            ):
                epochs += len(event.records) if isinstance(event, Resumed) else 0
                epochs += isinstance(event, EpochRecord)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    return Outcome(folder, epochs < _epochs(setup.experiment))


def _epochs(experiment: Experiment) -> int:
    """Epochs of all runs together."""
    return len(experiment.games) * len(experiment.seeds) * experiment.epochs


def _checkpoints(setup: Setup, folder: RunFolder) -> Callable[[Unit], Checkpoints]:
    options = setup.options
    return lambda unit: Checkpoints(folder.checkpoints(unit), options.keep, options.keep_best)


def _folder(setup: Setup) -> tuple[RunFolder, list[dict[str, Any]]]:
    """The run's folder, and where what is in it comes from."""
    options, experiment = setup.options, setup.experiment
    if options.resume is None:
        return new_folder(options.out, f"{experiment.dataset}-{experiment.optimizer}"), []
    folder = existing_folder(options.resume)
    if not folder.results.exists():
        return folder, []
    try:
        before, _, content = results.read(folder.results)
    except results.ResultsError as error:
        raise UsageError(str(error)) from error
    check_resumed(before, options, folder.path)
    return folder, content["starts"]


class _Run:
    """One call of the command, after everything has been checked."""

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        starts: list[dict[str, Any]],
        members: Team,
        clock: Clock,
    ) -> None:
        self._setup, self._folder, self._starts = setup, folder, starts
        self._members, self._clock = members, clock
        self._records: list[EpochRecord] = []
        self._console = Console()

    def run(self) -> Outcome:
        experiment = self._setup.experiment
        write_whole(self._folder.config, as_yaml(anywhere(self._setup.options)))
        self._describe()
        print(headline(experiment), flush=True)
        try:
            with noted_interrupts() as interrupted:
                self._train(interrupted)
                stopped = len(self._records) < _epochs(experiment)
                self._save("interrupted" if stopped else "finished")
                self._draw()
        except BaseException:
            self._try_to_save("failed")
            raise
        self._conclude(stopped)
        return Outcome(self._folder, stopped)

    def _describe(self) -> None:
        """Writes what the report needs beside the results."""
        trainer, images = self._setup.trainers[-1], self._setup.plan.watch
        results.write(self._folder.network, described(trainer.stages))
        if images and trainer.method.weighs:
            results.write(self._folder.watched, trainer.pictures(images))

    def _train(self, interrupted: Callable[[], bool]) -> None:
        setup, folder = self._setup, self._folder
        with ExitStack() as stack:
            logs = stack.enter_context(logging_to(folder.path))
            show = stack.enter_context(progress(self._console, setup.experiment))
            events = compare(
                setup.experiment,
                setup.trainers,
                setup.plan,
                _checkpoints(setup, folder),
                stop=self._members.agreed(interrupted),
                trace=lambda: jax.profiler.trace(os.fspath(folder.path / "profile")),
                clock=self._clock,
            )
            for event in events:
                logs.write(event)
                show(event)
                if isinstance(event, Resumed):
                    self._records += event.records
                if isinstance(event, EpochRecord):
                    self._records.append(event)
                    self._save("running")

    def _save(self, status: str) -> None:
        self._starts[-1]["seconds"] = self._clock.seconds
        seconds = {t.method.name: t.compile_seconds for t in self._setup.trainers}
        content = results.document(
            self._setup.experiment, self._records, seconds, status, self._starts
        )
        results.write(self._folder.results, content)

    def _try_to_save(self, status: str) -> None:
        with suppress(OSError):  # what stopped the run is told; this would be the same
            self._save(status)

    def _draw(self) -> None:
        experiment = self._setup.experiment
        curves = curves_of(experiment, self._records)
        for kind in ("png", "svg"):
            draw(self._folder.curves(kind), experiment.title, curves)

    def _conclude(self, stopped: bool) -> None:
        experiment = self._setup.experiment
        summaries = summarise(self._records)
        self._console.print(table(experiment, summaries))
        for warning in warnings(experiment, summaries):
            print(warning)
        if stopped:
            print(f"To go on: gtddp train --resume {self._folder.path}")
        print(f"Results in {self._folder.path}")


def headline(experiment: Experiment) -> str:
    """What is about to be run, in one line."""
    *first, last = (method.label for method in experiment.methods())
    names = f"{', '.join(first)} and {last}" if first else last
    seeds = ", ".join(map(str, experiment.seeds))
    return f"{names} on {experiment.title}, epochs {experiment.epochs}, seeds {seeds}"
