"""Paired differences: the same seed, data and batches with two methods."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """How far one method is from another, epoch by epoch.

    Attributes:
        mean: Mean over the seeds that both have, shape [epochs].
        half_width: Half the width of its confidence interval, shape [epochs]; None with one seed.
        seeds: Number of seeds.
    """

    mean: np.ndarray
    half_width: np.ndarray | None
    seeds: int


def difference(
    ours: Mapping[int, Sequence[float]], base: Mapping[int, Sequence[float]]
) -> Difference | None:
    """Compares courses over the epochs, paired by seed.

    Args:
        ours: A figure's values after each epoch, by seed.
        base: The same of the other method.

    Returns:
        ``ours`` minus ``base`` over the epochs that all pairs have; None without a pair.

    >>> found = difference({0: [2.0, 3.0], 1: [4.0, 5.0]}, {0: [1.0, 1.0], 1: [1.0, 1.0]})
    >>> found.mean
    array([2., 3.])
    >>> found.half_width.round(2)  # Student's t with one degree of freedom
    array([12.71, 12.71])
    """
    from scipy import stats

    shared = [seed for seed in ours if seed in base]
    if not shared:
        return None
    epochs = min(min(len(ours[seed]), len(base[seed])) for seed in shared)
    gaps = np.array(
        [np.subtract(ours[seed][:epochs], base[seed][:epochs]) for seed in shared], np.float64
    )
    if len(shared) == 1:
        return Difference(gaps[0], None, 1)
    error = gaps.std(axis=0, ddof=1) / np.sqrt(len(shared))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(shared) - 1))
    return Difference(gaps.mean(axis=0), quantile * error, len(shared))
