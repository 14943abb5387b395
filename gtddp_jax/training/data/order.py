"""Which samples a batch has: a pure function of seed, epoch and step.

Nothing is drawn from a stream, so there is no state to be saved: a run that knows its seed and how
many steps it has taken goes on with exactly the batch that comes next.
"""

from typing import NamedTuple

import numpy as np


class Position(NamedTuple):
    """Where a run is in its data.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Number of the batch in its epoch, from 0.
    """

    epoch: int
    step: int


def position(steps_taken: int, samples: int, batch_size: int) -> Position:
    """The position of the next batch.

    Args:
        steps_taken: Steps taken since the beginning of the run.
        samples: Size of the training part.
        batch_size: Samples in a batch, in all processes together; at most ``samples``.

    Raises:
        ValueError: If a batch is larger than the training part, or empty.

    >>> position(steps_taken=25, samples=100, batch_size=10)
    Position(epoch=3, step=5)
    """
    epoch, step = divmod(steps_taken, steps_per_epoch(samples, batch_size))
    return Position(epoch + 1, step)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Full batches in an epoch; the samples left over by the last one sit out.

    Raises:
        ValueError: If a batch is larger than the training part, or empty.
    """
    if not 1 <= batch_size <= samples:
        raise ValueError(f"batch_size must be from 1 to {samples} (all samples), got {batch_size}.")
    return samples // batch_size


def epoch_order(seed: int, epoch: int, samples: int, batch_size: int) -> np.ndarray:
    """Draws the batches of one epoch, the same in every process and for every method.

    Args:
        seed: The run's seed.
        epoch: Number of the epoch; every epoch has its own order.
        samples: Size of the training part.
        batch_size: Samples in a batch, in all processes together.

    Returns:
        Indices into the training part, int32 of shape [steps, batch], none twice.

    Raises:
        ValueError: If a batch is larger than the training part, or empty.
    """
    steps = steps_per_epoch(samples, batch_size)
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def process_part(rows: np.ndarray, process_index: int, process_count: int) -> np.ndarray:
    """The part of every batch that one of several processes provides.

    Args:
        rows: Indices [..., batch] of whole batches.
        process_index: Number of the process, from 0.
        process_count: Number of processes; divides the batch.

    Returns:
        Indices [..., batch / process_count]; the parts of all processes, in their order, make up
        the batch.

    Raises:
        ValueError: If the batch cannot be divided.

    >>> process_part(np.arange(8), process_index=1, process_count=4)
    array([2, 3])
    """
    batch = rows.shape[-1]
    if batch % process_count:
        raise ValueError(
            f"batch_size must be a multiple of the {process_count} processes, got {batch}."
        )
    part = batch // process_count
    return rows[..., process_index * part : (process_index + 1) * part]
