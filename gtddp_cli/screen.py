"""Progress while training: bars on a terminal, one line per epoch elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gtddp_jax.training.experiment import EpochRecord, Experiment


class Show(Protocol):
    """Shows one more epoch."""

    def __call__(self, record: EpochRecord) -> None:
        """Shows ``record``."""
        ...


@contextmanager
def progress(console: Console, experiment: Experiment) -> Iterator[Show]:
    """Opens the display of an experiment's progress; yields the function that advances it."""
    display = _bars if console.is_terminal else _lines
    with display(console, experiment) as show:
        yield show


def scores(record: EpochRecord) -> str:
    """Describes an epoch's scores in one short line."""
    return (
        f"train loss {record.train_loss:.4f}  validation {100 * record.validation_accuracy:5.2f} %"
    )


def _labels(experiment: Experiment) -> dict[str, str]:
    labels = {method.name: method.label for method in experiment.methods()}
    width = max(map(len, labels.values()))
    return {name: label.ljust(width) for name, label in labels.items()}


@contextmanager
def _lines(console: Console, experiment: Experiment) -> Iterator[Show]:
    labels = _labels(experiment)

    def show(record: EpochRecord) -> None:
        print(
            f"{labels[record.method]}  seed {record.seed}  "
            f"epoch {record.epoch}/{experiment.epochs}  {scores(record)}  "
            f"{record.seconds:.1f} s",
            flush=True,
        )

    yield show


@contextmanager
def _bars(console: Console, experiment: Experiment) -> Iterator[Show]:
    labels = _labels(experiment)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[scores]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        tasks = {
            (name, seed): bars.add_task(
                f"{label}  seed {seed}", total=experiment.epochs, start=False, scores=""
            )
            for seed in experiment.seeds
            for name, label in labels.items()
        }
        waiting = iter(tasks.values())

        def start_next() -> None:
            task = next(waiting, None)
            if task is not None:
                bars.start_task(task)
                bars.update(task, scores="starting")

        def show(record: EpochRecord) -> None:
            task = tasks[record.method, record.seed]
            bars.update(task, completed=record.epoch, scores=scores(record))
            if record.epoch == experiment.epochs:
                start_next()

        start_next()
        yield show
