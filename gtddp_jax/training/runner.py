"""One unit from its first step, or from its checkpoint, to its last: a loop that yields."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gtddp_jax.training.checkpoints import Checkpoints
from gtddp_jax.training.clock import Clock
from gtddp_jax.training.loop import Score
from gtddp_jax.training.records import EpochRecord, Event, Progress, Resumed, Unit
from gtddp_jax.training.state import TrainState
from gtddp_jax.training.trainer import Trainer


@dataclass(frozen=True)
class Plan:
    """When a run stops stepping to do something else.

    Where it does so does not change what it computes.

    Attributes:
        epochs: Passes over the training images.
        log_every: Steps between two looks at the figures, counted from the epoch's beginning.
        checkpoint_every: Steps between two checkpoints; None for the end of every epoch.
        profile: Steps (first, last) between which a trace is taken, or None.
        watch: Training images whose weights are recorded after every epoch, about; 0 for none.
    """

    epochs: int
    log_every: int = 100
    checkpoint_every: int | None = None
    profile: tuple[int, int] | None = None
    watch: int = 0

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: If a number is out of range.
        """
        for name in ("epochs", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.watch < 0:
            raise ValueError(f"watch must be at least 0, got {self.watch}.")

    def next_stop(self, step: int, steps_per_epoch: int) -> int:
        """The first place after ``step`` where something is to be done."""
        epoch_start = step - step % steps_per_epoch
        stops = [
            epoch_start + steps_per_epoch,
            epoch_start + _multiple_after(step - epoch_start, self.log_every),
        ]
        if self.checkpoint_every is not None:
            stops.append(_multiple_after(step, self.checkpoint_every))
        stops += [stop for stop in self.profile or () if stop > step]
        return min(stops)

    def saves_at(self, step: int, steps_per_epoch: int) -> bool:
        """Whether a checkpoint is due after ``step`` steps."""
        every = steps_per_epoch if self.checkpoint_every is None else self.checkpoint_every
        return step % every == 0 or step == self.epochs * steps_per_epoch


def _multiple_after(step: int, every: int) -> int:
    return (step // every + 1) * every


Trace = Callable[[], AbstractContextManager[None]]
"""Opens a trace."""


def run(
    trainer: Trainer,
    seeds: tuple[int, ...],
    plan: Plan,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
    trace: Trace = nullcontext,
    clock: Clock | None = None,
) -> Iterator[Event]:
    """Trains a unit to its end; goes on from its newest checkpoint, if there is one.

    Args:
        trainer: What trains.
        seeds: Its seeds; with more than one they are trained at once.
        plan: What is done when.
        checkpoints: Where the state is kept; None for nowhere.
        stop: Asked after every chunk of steps; True saves a checkpoint and ends the run.
        trace: Opens the trace that ``plan.profile`` asks for.
        clock: What time is spent on is added here.

    Yields:
        `Resumed` first, if it goes on; `Progress` after every chunk of steps, and one `EpochRecord`
        for each seed after every epoch, when what they tell of is on its way to the disk.

    Raises:
        CheckpointError: If a checkpoint cannot be written or read.
    """
    clock = Clock() if clock is None else clock
    timed = partial(clock.part, trainer.method.name)
    unit = Unit(trainer.method.name, seeds)
    state, step, seconds = trainer.start(seeds), 0, 0.0
    records: list[EpochRecord] = []
    with timed("checkpoints"):
        saved = None if checkpoints is None else checkpoints.restore(state)
    if saved is not None:
        state, step, seconds, records = saved.state, saved.step, saved.seconds, list(saved.records)
        yield Resumed(unit, step, saved.records)
    per_epoch, total = trainer.steps_per_epoch, plan.epochs * trainer.steps_per_epoch
    while step < total:
        until = plan.next_stop(step, per_epoch)
        with timed("batches"):
            rows = trainer.rows(seeds, step, until - step)
        with timed("compilation"):
            trainer.compile(state, rows)
        traced = plan.profile is not None and plan.profile[0] <= step < plan.profile[1]
        with trace() if traced else nullcontext():
            state, spent = _timed(trainer, state, rows)
        clock.add(trainer.method.name, "steps", spent)
        step, seconds = until, seconds + spent
        figures = trainer.figures(state)
        images = rows.size  # every row names a batch's images, of every seed
        progress = Progress(unit, step, total, (step - 1) // per_epoch + 1, spent, images, figures)
        fresh: list[EpochRecord] = []
        if step % per_epoch == 0:
            with timed("evaluation"):
                fresh = _score(trainer, state, progress, seconds)
            if plan.watch and trainer.method.weighs:
                with timed("weights"):
                    fresh = _watched(trainer, state, plan.watch, fresh)
            records += fresh
            state, seconds = trainer.new_epoch(state), 0.0
        stopping = stop()
        if checkpoints is not None and (stopping or plan.saves_at(step, per_epoch)):
            with timed("checkpoints"):
                checkpoints.save(state, step, records, seconds, _accuracy(fresh))
        yield progress
        yield from fresh
        if stopping:
            return


def _timed(trainer: Trainer, state: TrainState, rows: np.ndarray) -> tuple[TrainState, float]:
    start = time.perf_counter()
    state = trainer.train(state, rows)
    return state, time.perf_counter() - start


def _score(
    trainer: Trainer, state: TrainState, progress: Progress, seconds: float
) -> list[EpochRecord]:
    train: list[Score] = trainer.score_train(state)
    validation: list[Score] = trainer.score_validation(state)
    return [
        EpochRecord(
            method=progress.unit.method,
            seed=seed,
            epoch=progress.epoch,
            train_loss=train[i].loss,
            average_loss=progress.figures[i].loss,
            validation_loss=validation[i].loss,
            validation_accuracy=validation[i].accuracy,
            seconds=seconds / len(progress.unit.seeds),
            report=progress.figures[i].report,
        )
        for i, seed in enumerate(progress.unit.seeds)
    ]


def _watched(
    trainer: Trainer, state: TrainState, images: int, fresh: list[EpochRecord]
) -> list[EpochRecord]:
    """The records with the weights of so many watched images."""
    found = trainer.watch(state, images)
    return [replace(record, weights=each) for record, each in zip(fresh, found, strict=True)]


def _accuracy(fresh: list[EpochRecord]) -> float | None:
    """The mean validation accuracy of the seeds after an epoch; None within one."""
    scores = [record.validation_accuracy for record in fresh]
    return sum(scores) / len(scores) if scores else None
