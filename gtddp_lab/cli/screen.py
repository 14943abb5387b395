"""Progress of a training run: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from gtddp_lab.core.printing import loss_text
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import (
    EpochRecord,
    RunEvent,
    TrainingUnit,
    TrainProgress,
    UnitResumed,
)
from gtddp_lab.training.totals import EpochFigures

SECONDS_BETWEEN_LINES = 60.0
"""Seconds between two plain lines within an epoch."""


class ShowEvent(Protocol):
    """Shows one event."""

    def __call__(self, event: RunEvent) -> None:
        """Shows ``event``."""
        ...


@contextmanager
def progress_display(console: Console, experiment: Experiment) -> Iterator[ShowEvent]:
    """Opens the display of an experiment's progress; yields the function that updates it."""
    display = _progress_bars if console.is_terminal else _plain_lines
    with display(console, experiment) as show_event:
        yield show_event


def format_scores(record: EpochRecord) -> str:
    """Formats the scores of an epoch as one short line."""
    return (
        f"train loss {loss_text(record.train_loss)}  "
        f"validation {100 * record.validation_accuracy:5.2f} %"
    )


def format_progress(event: TrainProgress) -> str:
    """Formats the running epoch: loss and speed."""
    loss = sum(figures.loss for figures in event.figures) / len(event.figures)
    speed = event.images / event.seconds if event.seconds > 0 else 0.0
    return f"loss {loss_text(loss)}  {speed:,.0f} images/s"


def format_weights(figures: EpochFigures) -> str:
    """Formats the range of sample weights and skipped steps; empty for base optimizers."""
    report = figures.report
    if "sample_weight_min" not in report:
        return ""
    text = f"weights {report['sample_weight_min']:.2f}-{report['sample_weight_max']:.2f}"
    skipped = report.get("skipped_steps", 0.0)
    return f"{text}  {skipped:.0f} skipped" if skipped else text


def _padded_labels(experiment: Experiment) -> dict[str, str]:
    labels = {method.name: method.label for method in experiment.methods()}
    width = max(map(len, labels.values()))
    return {name: label.ljust(width) for name, label in labels.items()}


def _format_seeds(unit: TrainingUnit) -> str:
    return f"seed{'s' if len(unit.seeds) > 1 else ''} {', '.join(map(str, unit.seeds))}"


@contextmanager
def _plain_lines(console: Console, experiment: Experiment) -> Iterator[ShowEvent]:
    labels = _padded_labels(experiment)
    last_line = time.monotonic()  # epochs shorter than a minute print one line only

    def show_event(event: RunEvent) -> None:
        nonlocal last_line
        if isinstance(event, UnitResumed):
            unit = f"{labels[event.unit.method]}  {_format_seeds(event.unit)}"
            print(f"{unit}  from step {event.step}")
        elif isinstance(event, EpochRecord):
            last_line = time.monotonic()
            print(
                f"{labels[event.method]}  seed {event.seed}  "
                f"epoch {event.epoch}/{experiment.epochs}  {format_scores(event)}  "
                f"{event.seconds:.1f} s",
                flush=True,
            )
        elif time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            print(
                f"{labels[event.unit.method]}  {_format_seeds(event.unit)}  "
                f"step {event.step}/{event.steps}  "
                f"{format_progress(event)}  {format_weights(event.figures[0])}",
                flush=True,
            )

    yield show_event


@contextmanager
def _progress_bars(console: Console, experiment: Experiment) -> Iterator[ShowEvent]:
    labels = _padded_labels(experiment)
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[scores]}", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[running]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[TrainingUnit, TaskID] = {}

        def task_of(unit: TrainingUnit) -> TaskID:
            if unit not in tasks:
                description = f"{labels[unit.method]}  {_format_seeds(unit)}"
                tasks[unit] = bars.add_task(description, total=None, scores="", running="")
            return tasks[unit]

        def show_event(event: RunEvent) -> None:
            if isinstance(event, UnitResumed):
                scores = format_scores(event.records[-1]) if event.records else ""
                task = task_of(event.unit)
                bars.update(task, scores=scores, running=f"from step {event.step}")
            elif isinstance(event, EpochRecord):
                # A record names one seed; its bar belongs to the unit that contains the seed.
                (unit,) = (
                    unit
                    for unit in tasks
                    if unit.method == event.method and event.seed in unit.seeds
                )
                bars.update(tasks[unit], scores=format_scores(event))
            else:
                running = f"{format_progress(event)}  {format_weights(event.figures[0])}".rstrip()
                task = task_of(event.unit)
                bars.update(task, completed=event.step, total=event.steps, running=running)

        yield show_event
