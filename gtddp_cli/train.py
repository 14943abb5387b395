"""The command ``gtddp train``."""

import itertools
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from gtddp_cli.interrupt import noted_interrupts
from gtddp_cli.options import Train
from gtddp_cli.parse import UsageError
from gtddp_cli.screen import progress
from gtddp_cli.table import table, warnings
from gtddp_jax.training import results
from gtddp_jax.training.experiment import (
    EpochRecord,
    Experiment,
    Trainer,
    build_trainers,
    compare,
    default_learning_rate,
)
from gtddp_jax.training.methods import Settings
from gtddp_jax.training.plots import plot
from gtddp_jax.training.summary import summarise

NETWORK = "residual-conv"
BASE = "none"
"""The game of the base optimizer, which comes first."""

OWN_OPTIONS = {"sequential": ("rollout", "terminal", "max_shift"), "implicit": ("weights",)}
"""Options that only one game reads."""


class Outcome(NamedTuple):
    """How a run ended: its folder, and whether Ctrl-C ended it before its last epoch."""

    folder: Path
    interrupted: bool


def train(options: Train) -> Outcome:
    """Trains, shows the progress, and leaves table, curves and results behind.

    Raises:
        UsageError: If an option's value cannot be used; nothing has been written then.
    """
    try:
        experiment = _experiment(options)
        trainers = build_trainers(experiment)
    except ValueError as error:
        raise UsageError(str(error)) from error
    folder = _new_folder(options.out, f"{experiment.dataset}-{experiment.optimizer}")
    console = Console()
    records: list[EpochRecord] = []
    print(_headline(experiment), flush=True)
    with noted_interrupts() as interrupted:
        with progress(console, experiment) as show:
            for record in compare(experiment, trainers):
                records.append(record)
                _save(folder, experiment, trainers, records, "running")
                show(record)
                if interrupted():
                    break
        expected = len(trainers) * len(experiment.seeds) * experiment.epochs
        outcome = Outcome(folder, len(records) < expected)
        status = "interrupted" if outcome.interrupted else "finished"
        _save(folder, experiment, trainers, records, status)
        labels = {trainer.method.name: trainer.method.label for trainer in trainers}
        plot(folder / "curves.png", experiment.title, labels, records)
    summaries = summarise(records)
    console.print(table(experiment, summaries))
    for warning in warnings(experiment, summaries):
        print(warning)
    print(f"Results in {folder}")
    return outcome


def _games(options: Train) -> tuple[str, ...]:
    """The games to be run, the base optimizer's first; refuses options that would do nothing."""
    games = () if options.base_only else options.game
    if options.base_only and options.game != Train.game:
        raise UsageError("--base-only and --game exclude each other.")
    if not options.base_only and (not games or len(set(games)) < len(games)):
        raise UsageError(f"--game needs one or more different ones of {', '.join(OWN_OPTIONS)}.")
    for game, names in OWN_OPTIONS.items():
        for name in names:
            if game not in games and getattr(options, name) != getattr(Train, name):
                option = name.replace("_", "-")
                raise UsageError(f"--{option} belongs to --game {game}, which is not run.")
    return (BASE, *games)


def _experiment(options: Train) -> Experiment:
    rate = options.learning_rate
    return Experiment(
        dataset=options.dataset,
        network=NETWORK,
        optimizer=options.optimizer,
        games=_games(options),
        settings=Settings(
            learning_rate=default_learning_rate(options.optimizer) if rate is None else rate,
            rollout=options.rollout,
            terminal=options.terminal,
            max_shift=options.max_shift,
            weights=options.weights,
        ),
        epochs=options.epochs,
        batch_size=options.batch_size,
        seeds=options.seeds,
    )


def _new_folder(parent: Path, stem: str) -> Path:
    stem = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            if not folder.exists():
                folder.mkdir()
                return folder
    except OSError as error:
        raise UsageError(f"cannot write to {parent}: {error.strerror}") from error
    raise AssertionError("unreachable: count() does not end")


def _save(
    folder: Path,
    experiment: Experiment,
    trainers: tuple[Trainer, ...],
    records: list[EpochRecord],
    status: str,
) -> None:
    compile_seconds = {trainer.method.name: trainer.compile_seconds for trainer in trainers}
    results.write(
        folder / "results.json", results.document(experiment, records, compile_seconds, status)
    )


def _headline(experiment: Experiment) -> str:
    *first, last = (method.label for method in experiment.methods())
    names = f"{', '.join(first)} and {last}" if first else last
    seeds = ", ".join(map(str, experiment.seeds))
    return f"{names} on {experiment.title}, epochs {experiment.epochs}, seeds {seeds}"
