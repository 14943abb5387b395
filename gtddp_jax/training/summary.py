"""What a comparison comes to: one row per method."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gtddp_jax.training.records import EpochRecord


@dataclass(frozen=True)
class Summary:
    """A method's results, as means over its seeds.

    Attributes:
        method: Name of the method.
        seeds: Number of seeds with at least one epoch.
        epochs: Epochs of the shortest run: all of them unless it was interrupted.
        final_loss: Training loss after the last epoch.
        average_loss: Running average of the training loss over the whole run.
        validation_accuracy: Fraction of the validation part after the last epoch, in [0, 1].
        validation_error: Standard error of that over the seeds; None with a single seed.
        seconds: Wall time of a run's training steps.
        skipped_steps: Steps of all runs together that the optimizer refused to take because a
            number was not finite.
    """

    method: str
    seeds: int
    epochs: int
    final_loss: float
    average_loss: float
    validation_accuracy: float
    validation_error: float | None
    seconds: float
    skipped_steps: int


def runs(records: Iterable[EpochRecord]) -> dict[str, dict[int, list[EpochRecord]]]:
    """Groups records by method and seed, in the order in which they first appear."""
    grouped: dict[str, dict[int, list[EpochRecord]]] = {}
    for record in records:
        grouped.setdefault(record.method, {}).setdefault(record.seed, []).append(record)
    return grouped


def summarise(records: Iterable[EpochRecord]) -> list[Summary]:
    """Reduces the records of a comparison, finished or not, to one row per method."""
    return [_summary(name, list(seeds.values())) for name, seeds in runs(records).items()]


def _summary(method: str, runs: list[list[EpochRecord]]) -> Summary:
    accuracies = np.array([run[-1].validation_accuracy for run in runs])
    error = float(accuracies.std(ddof=1) / np.sqrt(len(runs))) if len(runs) > 1 else None
    return Summary(
        method=method,
        seeds=len(runs),
        epochs=min(len(run) for run in runs),
        final_loss=float(np.mean([run[-1].train_loss for run in runs])),
        average_loss=float(np.mean([np.mean([r.average_loss for r in run]) for run in runs])),
        validation_accuracy=float(accuracies.mean()),
        validation_error=error,
        seconds=float(np.mean([sum(r.seconds for r in run) for run in runs])),
        skipped_steps=int(sum(run[-1].report.get("skipped_steps", 0) for run in runs)),
    )
