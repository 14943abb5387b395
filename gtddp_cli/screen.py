"""Progress while training: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from gtddp_jax.training import records
from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.records import EpochRecord, Event, Resumed, Unit
from gtddp_jax.training.totals import Figures

LINE_EVERY_S = 60.0
"""Seconds between two plain lines within an epoch."""


class Show(Protocol):
    """Shows one more event."""

    def __call__(self, event: Event) -> None:
        """Shows ``event``."""
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


def running(event: records.Progress) -> str:
    """Describes the running epoch so far: loss and speed."""
    loss = sum(figures.loss for figures in event.figures) / len(event.figures)
    speed = event.images / event.seconds if event.seconds > 0 else 0.0
    return f"loss {loss:.4f}  {speed:,.0f} images/s"


def weights(figures: Figures) -> str:
    """Describes the weights' spread and the skipped steps; empty for plain optimizers."""
    report = figures.report
    if "weight_min" not in report:
        return ""
    text = f"weights {report['weight_min']:.2f}-{report['weight_max']:.2f}"
    skipped = int(report.get("skipped_steps", 0))
    return f"{text}  {skipped} skipped" if skipped else text


def _labels(experiment: Experiment) -> dict[str, str]:
    labels = {method.name: method.label for method in experiment.methods()}
    width = max(map(len, labels.values()))
    return {name: label.ljust(width) for name, label in labels.items()}


def _seeds(unit: Unit) -> str:
    return f"seed{'s' if len(unit.seeds) > 1 else ''} {', '.join(map(str, unit.seeds))}"


@contextmanager
def _lines(console: Console, experiment: Experiment) -> Iterator[Show]:
    labels = _labels(experiment)
    told = time.monotonic()

    def show(event: Event) -> None:
        nonlocal told
        if isinstance(event, Resumed):
            print(f"{labels[event.unit.method]}  {_seeds(event.unit)}  from step {event.step}")
        elif isinstance(event, EpochRecord):
            told = time.monotonic()
            print(
                f"{labels[event.method]}  seed {event.seed}  "
                f"epoch {event.epoch}/{experiment.epochs}  {scores(event)}  "
                f"{event.seconds:.1f} s",
                flush=True,
            )
        elif time.monotonic() - told > LINE_EVERY_S:
            told = time.monotonic()
            print(
                f"{labels[event.unit.method]}  {_seeds(event.unit)}  "
                f"step {event.step}/{event.steps}  {running(event)}  {weights(event.figures[0])}",
                flush=True,
            )

    yield show


@contextmanager
def _bars(console: Console, experiment: Experiment) -> Iterator[Show]:
    labels = _labels(experiment)
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[scores]}", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[running]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[Unit, TaskID] = {}

        def task(unit: Unit) -> TaskID:
            if unit not in tasks:
                description = f"{labels[unit.method]}  {_seeds(unit)}"
                tasks[unit] = bars.add_task(description, total=None, scores="", running="")
            return tasks[unit]

        def show(event: Event) -> None:
            if isinstance(event, Resumed):
                last = scores(event.records[-1]) if event.records else ""
                bars.update(task(event.unit), scores=last, running=f"from step {event.step}")
            elif isinstance(event, EpochRecord):
                (unit,) = (u for u in tasks if u.method == event.method and event.seed in u.seeds)
                bars.update(tasks[unit], scores=scores(event))
            else:
                text = f"{running(event)}  {weights(event.figures[0])}".rstrip()
                bars.update(task(event.unit), completed=event.step, total=event.steps, running=text)

        yield show
