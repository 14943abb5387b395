"""Losses at equal time: a step of a game costs more than one of its base."""

from collections.abc import Sequence

import numpy as np

from gtddp_lab.training.records import EpochRecord


def elapsed_seconds(run: Sequence[EpochRecord]) -> np.ndarray:
    """Time of the training steps of a run up to the end of every epoch, [epochs], in seconds."""
    return np.cumsum([record.seconds for record in run])


def loss_at_time(run: Sequence[EpochRecord], seconds: float) -> float:
    """The training loss of a run after some time, interpolated between epochs on a log scale.

    Args:
        run: The epochs of one run, in order, at least one.
        seconds: Time of training steps, without compilation and evaluation.

    Returns:
        The last loss if the run takes less time; NaN if its first epoch takes more.
    """
    elapsed = elapsed_seconds(run)
    if seconds < elapsed[0]:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = np.log([record.train_loss for record in run])
        return float(np.exp(np.interp(seconds, elapsed, losses)))
