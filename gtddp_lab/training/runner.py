"""Runs one unit from its first step, or from its checkpoint, to its last; yields events."""

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gtddp_lab.core.bounds import check_integer
from gtddp_lab.training.checkpoints import Checkpoints
from gtddp_lab.training.clock import RunClock
from gtddp_lab.training.records import (
    EpochRecord,
    RunEvent,
    TrainingUnit,
    TrainProgress,
    UnitResumed,
)
from gtddp_lab.training.settings import MOST_EPOCHS, MOST_STEPS
from gtddp_lab.training.state import RunState
from gtddp_lab.training.trainer import Trainer


@dataclass(frozen=True)
class RunPlan:
    """When a run interrupts its steps to log, score or save. This never changes its results.

    Attributes:
        epochs: Passes over the training images.
        log_every: Steps between two log entries, counted from the beginning of the epoch.
        checkpoint_every: Steps between two checkpoints; None for one at the end of every epoch.
        profile: Steps (first, last) between which a trace is recorded, or None.
        watch: Approximate number of training images whose weights are recorded after every epoch;
            0 for none.
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
        check_integer("epochs", self.epochs, 1, MOST_EPOCHS)
        check_integer("log_every", self.log_every, 1, MOST_STEPS)
        if self.checkpoint_every is not None:
            check_integer("checkpoint_every", self.checkpoint_every, 1, MOST_STEPS)
        check_integer("watch", self.watch, 0, MOST_STEPS)

    def next_stop(self, step: int, steps_per_epoch: int) -> int:
        """The first step after ``step`` at which the run interrupts its steps."""
        # Every epoch is a stop of its own: batches and scores do not cross it.
        epoch_start = step - step % steps_per_epoch
        stops = [
            epoch_start + steps_per_epoch,
            epoch_start + _next_multiple(step - epoch_start, self.log_every),
        ]
        if self.checkpoint_every is not None:
            stops.append(_next_multiple(step, self.checkpoint_every))
        stops += [stop for stop in self.profile or () if stop > step]
        return min(stops)

    def saves_at(self, step: int, steps_per_epoch: int) -> bool:
        """Whether a checkpoint is due after ``step`` steps."""
        every = steps_per_epoch if self.checkpoint_every is None else self.checkpoint_every
        return step % every == 0 or step == self.epochs * steps_per_epoch

    def profiles_at(self, step: int) -> bool:
        """Whether the steps after ``step`` are traced."""
        return self.profile is not None and self.profile[0] <= step < self.profile[1]


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every


OpenTrace = Callable[[], AbstractContextManager[None]]
"""Opens a profiler trace."""


def run_unit(
    trainer: Trainer,
    seeds: tuple[int, ...],
    plan: RunPlan,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
    trace: OpenTrace = nullcontext,
    clock: RunClock | None = None,
) -> Generator[RunEvent, None, None]:
    """Trains a unit to its end, starting from its newest checkpoint if there is one.

    Args:
        trainer: The trainer.
        seeds: The seeds of the unit; several seeds are trained at once.
        plan: When to log, score and save.
        checkpoints: Where the state is saved; None to save nothing.
        stop: Called after every chunk of steps; True saves a checkpoint and ends the run.
        trace: Opens the trace that ``plan.profile`` requests.
        clock: Receives the time spent.

    Yields:
        `UnitResumed` first, if the run starts from a checkpoint; `TrainProgress` after every chunk
        of steps; one `EpochRecord` per seed after every epoch. An event is yielded after its
        checkpoint was handed to the writer.

    Raises:
        CheckpointError: If a checkpoint cannot be written or read.
    """
    clock = RunClock() if clock is None else clock
    measure = partial(clock.measure, trainer.method.name)
    unit = TrainingUnit(trainer.method.name, seeds)
    state, step, seconds = trainer.start(seeds), 0, 0.0
    records: list[EpochRecord] = []
    with measure("checkpoints"):
        saved = None if checkpoints is None else checkpoints.restore(state)
    if saved is not None:
        state, step, seconds, records = saved.state, saved.step, saved.seconds, list(saved.records)
        yield UnitResumed(unit, step, saved.records)
    per_epoch, total = trainer.steps_per_epoch, plan.epochs * trainer.steps_per_epoch
    while step < total:
        # One chunk: the steps up to the next stop, dispatched without looking at their results.
        until = plan.next_stop(step, per_epoch)
        with measure("batches"):
            rows = trainer.rows(seeds, step, until - step)
        with measure("compilation"):
            trainer.compile(state, rows)
        with trace() if plan.profiles_at(step) else nullcontext():
            state, chunk_seconds = _timed_steps(trainer, state, rows)
        clock.add_seconds(trainer.method.name, "steps", chunk_seconds)
        step, seconds = until, seconds + chunk_seconds
        progress = TrainProgress(
            unit=unit,
            step=step,
            steps=total,
            epoch=(step - 1) // per_epoch + 1,
            seconds=chunk_seconds,
            images=rows.size,  # each row holds one batch, of every seed
            figures=trainer.figures(state),
        )
        new_records: list[EpochRecord] = []
        if step % per_epoch == 0:
            with measure("evaluation"):
                new_records = _score_epoch(trainer, state, progress, seconds)
            if plan.watch and trainer.method.has_sample_weights:
                with measure("weights"):
                    new_records = _with_weights(trainer, state, plan.watch, new_records)
            records += new_records
            # Cleared before saving: a checkpoint at the end of an epoch starts the next one.
            state, seconds = trainer.new_epoch(state), 0.0
        # Asked after the epoch is scored, so that a stop at its end loses no record.
        stopping = stop()
        if checkpoints is not None and (stopping or plan.saves_at(step, per_epoch)):
            with measure("checkpoints"):
                checkpoints.save(state, step, records, seconds, _mean_accuracy(new_records))
        yield progress
        yield from new_records
        if stopping:
            return


def _timed_steps(trainer: Trainer, state: RunState, rows: np.ndarray) -> tuple[RunState, float]:
    start = time.perf_counter()
    state = trainer.train(state, rows)  # returns when the device has finished
    return state, time.perf_counter() - start


def _score_epoch(
    trainer: Trainer, state: RunState, progress: TrainProgress, seconds: float
) -> list[EpochRecord]:
    """The records of an epoch, one per seed."""
    seeds = progress.unit.seeds
    scores = zip(
        seeds,
        trainer.score_train(state),
        trainer.score_validation(state),
        progress.figures,
        strict=True,
    )
    return [
        EpochRecord(
            method=progress.unit.method,
            seed=seed,
            epoch=progress.epoch,
            train_loss=on_train.loss,
            average_loss=figures.loss,
            validation_loss=on_validation.loss,
            validation_accuracy=on_validation.accuracy,
            seconds=seconds / len(seeds),
            report=figures.report,
        )
        for seed, on_train, on_validation, figures in scores
    ]


def _with_weights(
    trainer: Trainer, state: RunState, images: int, records: list[EpochRecord]
) -> list[EpochRecord]:
    """The records, completed by the weights of the watched images."""
    digests = trainer.digest_weights(state, images)
    return [
        replace(record, sample_weights=digest)
        for record, digest in zip(records, digests, strict=True)
    ]


def _mean_accuracy(records: list[EpochRecord]) -> float | None:
    """The validation accuracy after an epoch, averaged over the seeds; None within an epoch."""
    accuracies = [record.validation_accuracy for record in records]
    return sum(accuracies) / len(accuracies) if accuracies else None
