"""Which samples form a batch: a pure function of seed, epoch and step.

There is no generator state to save: a run that knows its seed and its number of steps continues
with exactly the batch that comes next.
"""

from typing import NamedTuple

import numpy as np


class DataPosition(NamedTuple):
    """Position of a run in its data.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        step: Number of the batch in its epoch, counted from 0.
    """

    epoch: int
    step: int


def data_position(steps_taken: int, samples: int, batch_size: int) -> DataPosition:
    """Return the position of the next batch.

    Args:
        steps_taken: Number of steps since the beginning of the run.
        samples: Size of the training split.
        batch_size: Samples per batch over all processes, at most ``samples``.

    Raises:
        ValueError: If a batch is empty or larger than the training split.

    >>> data_position(steps_taken=25, samples=100, batch_size=10)
    DataPosition(epoch=3, step=5)
    """
    epoch, step = divmod(steps_taken, steps_per_epoch(samples, batch_size))
    return DataPosition(epoch + 1, step)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Return the number of full batches per epoch; left-over samples are skipped.

    Raises:
        ValueError: If a batch is empty or larger than the training split.
    """
    if not 1 <= batch_size <= samples:
        raise ValueError(f"batch_size must be from 1 to {samples} (all samples), got {batch_size}.")
    return samples // batch_size


def epoch_order(seed: int, epoch: int, samples: int, batch_size: int) -> np.ndarray:
    """Draw the batches of one epoch; they are the same in all processes and for all methods.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch; each epoch has its own order.
        samples: Size of the training split.
        batch_size: Samples per batch over all processes.

    Returns:
        Distinct indices into the training split, int32 of shape [steps, batch].

    Raises:
        ValueError: If a batch is empty or larger than the training split.
    """
    steps = steps_per_epoch(samples, batch_size)
    # Seeding with both numbers makes every epoch reproducible without the ones before it.
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def process_rows(rows: np.ndarray, process_index: int, process_count: int) -> np.ndarray:
    """Return the rows of each batch that one of several processes provides.

    Args:
        rows: Indices [..., batch] of global batches.
        process_index: Number of the process, counted from 0.
        process_count: Number of processes, a divisor of the batch size.

    Returns:
        Indices [..., batch / process_count]. Concatenated over the processes they are the batch.

    Raises:
        ValueError: If the batch size is not a multiple of the number of processes.

    >>> process_rows(np.arange(8), process_index=1, process_count=4)
    array([2, 3])
    """
    batch_size = rows.shape[-1]
    if batch_size % process_count:
        raise ValueError(
            f"batch_size must be a multiple of the {process_count} processes, got {batch_size}."
        )
    share = batch_size // process_count
    return rows[..., process_index * share : (process_index + 1) * share]
