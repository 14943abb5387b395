"""Summarizes a comparison: one row per method."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gtddp_lab.training.equal_time import elapsed_seconds, loss_at_time
from gtddp_lab.training.records import EpochRecord


@dataclass(frozen=True)
class MethodSummary:
    """Results of a method, averaged over its seeds.

    Attributes:
        method: Name of the method.
        seeds: Number of seeds with at least one epoch.
        epochs: Epochs of the shortest run: all of them unless it was interrupted.
        final_loss: Training loss after the last epoch.
        loss_error: Standard error of the final loss over the seeds; None for a single seed.
        equal_time_loss: Training loss when the first method, the base, had finished the same seed;
            NaN if a run had not finished its first epoch then.
        average_loss: Mean loss of all batches of the run, each before its step.
        validation_accuracy: Fraction of the validation part that is classified correctly after the
            last epoch, in [0, 1].
        validation_error: Standard error of the accuracy over the seeds; None for a single seed.
        seconds: Wall time of the training steps of a run.
        skipped_steps: Number of steps, over all runs, that the optimizer skipped because a number
            was not finite.
    """

    method: str
    seeds: int
    epochs: int
    final_loss: float
    loss_error: float | None
    equal_time_loss: float
    average_loss: float
    validation_accuracy: float
    validation_error: float | None
    seconds: float
    skipped_steps: int


def records_by_method(
    records: Iterable[EpochRecord],
) -> dict[str, dict[int, list[EpochRecord]]]:
    """Groups records by method and seed, in the order in which they first appear."""
    grouped: dict[str, dict[int, list[EpochRecord]]] = {}
    for record in records:
        grouped.setdefault(record.method, {}).setdefault(record.seed, []).append(record)
    return grouped


def summarize_records(records: Iterable[EpochRecord]) -> list[MethodSummary]:
    """Reduces the records of a comparison, finished or not, to one row per method."""
    grouped = records_by_method(records)
    base = next(iter(grouped.values()), {})
    return [_summarize_method(method, seeds, base) for method, seeds in grouped.items()]


def _summarize_method(
    method: str, by_seed: dict[int, list[EpochRecord]], base: dict[int, list[EpochRecord]]
) -> MethodSummary:
    runs = list(by_seed.values())
    # An interrupted run counts with its last epoch.
    accuracies = np.array([run[-1].validation_accuracy for run in runs])
    losses = np.array([run[-1].train_loss for run in runs])
    equal_time = [
        loss_at_time(run, elapsed_seconds(base[seed])[-1])
        for seed, run in by_seed.items()
        if seed in base
    ]
    run_averages = [np.mean([record.average_loss for record in run]) for run in runs]
    # The report counts skipped steps from the beginning of the run: the last record has them all.
    skipped = [np.sum(run[-1].report.get("skipped_steps", 0)) for run in runs]
    return MethodSummary(
        method=method,
        seeds=len(runs),
        epochs=min(len(run) for run in runs),
        final_loss=float(losses.mean()),
        loss_error=_standard_error(losses),
        equal_time_loss=float(np.mean(equal_time)) if equal_time else float("nan"),
        average_loss=float(np.mean(run_averages)),
        validation_accuracy=float(accuracies.mean()),
        validation_error=_standard_error(accuracies),
        seconds=float(np.mean([sum(record.seconds for record in run) for run in runs])),
        skipped_steps=int(sum(skipped)),
    )


def _standard_error(values: np.ndarray) -> float | None:
    if len(values) < 2:
        return None
    with np.errstate(invalid="ignore"):  # losses of diverged runs
        return float(values.std(ddof=1) / np.sqrt(len(values)))
