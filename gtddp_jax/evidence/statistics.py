"""Paired statistics over seeds, with bootstrap confidence intervals."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 9999


class Estimate(NamedTuple):
    """A statistic and its confidence interval.

    Attributes:
        value: The statistic; not a number where a run was not finite.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether all runs behind it were finite."""
        return math.isfinite(self.value)

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval excludes 0, else 0; 0 too where it is not known."""
        if not self.known:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    def text(self, digits: int = 2) -> str:
        """For a table: "-0.12 [-0.20, -0.03]"."""
        if not self.known:
            return "diverged"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.value:+.{digits}f} [unknown]"
        return f"{self.value:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"

    @property
    def data(self) -> list[float | None]:
        """Ready for JSON."""
        return [float(x) if math.isfinite(x) else None for x in self]


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def mean(values: np.ndarray) -> Estimate:
    """The mean over seeds.

    The interval is the bootstrap's, bias-corrected and accelerated (Efron 1987). With few seeds it
    is somewhat too narrow.

    Args:
        values: [seeds], differences for example.

    Example:
        >>> mean(np.array([1.0, 2.0, 3.0])).value
        2.0
    """
    return _estimate(values, lambda x, axis=-1: np.mean(x, axis=axis))


def log_ratio(ours: np.ndarray, base: np.ndarray) -> Estimate:
    """The mean natural log-ratio of two positive figures, paired by seed; below 0 is less."""
    with np.errstate(all="ignore"):
        return mean(np.log(ours / base))


def variance_change(ours: np.ndarray, base: np.ndarray) -> Estimate:
    """`(VAR_ours - VAR_base) / VAR_base` over seeds (paper Fig. 6b and 8); below 0 is less.

    The seeds are resampled together. With few of them the interval is very wide.

    Args:
        ours: [seeds].
        base: [seeds], of the same seeds.
    """

    def change(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Any:
        below = np.var(y, axis=axis, ddof=1)
        return np.var(x, axis=axis, ddof=1) / np.where(below > 0, below, np.nan) - 1

    return _estimate(ours, change, base)


def _estimate(values: np.ndarray, statistic: Any, *paired: np.ndarray) -> Estimate:
    from scipy import stats

    samples = [np.asarray(x, np.float64) for x in (values, *paired)]
    if not all(np.isfinite(x).all() for x in samples) or len(samples[0]) < 2:
        return UNKNOWN
    value = float(statistic(*samples))
    if all(np.ptp(x) == 0 for x in samples):
        return Estimate(value, value, value)
    options: dict[str, Any] = {
        "paired": len(samples) > 1,
        "vectorized": True,
        "confidence_level": CONFIDENCE,
        "n_resamples": RESAMPLES,
    }
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for method in ("BCa", "percentile"):  # a resample of equal values has no acceleration
            rng = np.random.default_rng(0)
            found = stats.bootstrap(samples, statistic, method=method, rng=rng, **options)
            low, high = found.confidence_interval
            if math.isfinite(low) and math.isfinite(high):
                return Estimate(value, float(low), float(high))
    return Estimate(value, -math.inf, math.inf)
