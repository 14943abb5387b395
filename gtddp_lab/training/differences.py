"""Differences between two methods, paired by seed: same initial parameters, data and batches."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class PairedDifference(NamedTuple):
    """Mean difference between two methods after every epoch.

    Attributes:
        mean: Mean over the common seeds, shape [epochs].
        half_width: Half width of the confidence interval of the mean, shape [epochs]; None for a
            single seed.
        seeds: Number of common seeds.
    """

    mean: np.ndarray
    half_width: np.ndarray | None
    seeds: int


def paired_difference(
    method: Mapping[int, Sequence[float]], base: Mapping[int, Sequence[float]]
) -> PairedDifference | None:
    """Compares a metric of two methods over the epochs, paired by seed.

    Args:
        method: Values of the metric after each epoch, by seed.
        base: The same for the other method.

    Returns:
        ``method`` minus ``base`` over the epochs that all pairs have; None without a common seed.

    Example:
        >>> gap = paired_difference({0: [2.0, 3.0], 1: [4.0, 5.0]}, {0: [1.0, 1.0], 1: [1.0, 1.0]})
        >>> gap.mean
        array([2., 3.])
        >>> gap.half_width.round(2)  # Student's t with one degree of freedom
        array([12.71, 12.71])
    """
    from scipy import stats

    common = [seed for seed in method if seed in base]
    if not common:
        return None
    epochs = min(min(len(method[seed]), len(base[seed])) for seed in common)
    # Differences of pairs first: what varies between seeds in both methods cancels.
    gaps = np.array(
        [np.subtract(method[seed][:epochs], base[seed][:epochs]) for seed in common], np.float64
    )
    if len(common) == 1:
        return PairedDifference(gaps[0], None, 1)
    standard_error = gaps.std(axis=0, ddof=1) / np.sqrt(len(common))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(common) - 1))
    return PairedDifference(gaps.mean(axis=0), quantile * standard_error, len(common))
