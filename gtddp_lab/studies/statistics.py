"""Statistics over seeds, paired by seed, with bootstrap confidence intervals."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from gtddp_lab.training.bounded_loss import bounded_loss

CONFIDENCE_LEVEL = 0.95
BOOTSTRAP_RESAMPLES = 9999


def finite_or_none(value: Any) -> float | None:
    """Return a number ready for JSON: None if it is not finite."""
    return float(value) if math.isfinite(value) else None


class Estimate(NamedTuple):
    """A statistic and its confidence interval.

    Attributes:
        value: The statistic; NaN if a run was not finite.
        low: Lower end of the 95 % interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether all runs were finite."""
        return math.isfinite(self.value)

    @property
    def sign(self) -> int:
        """-1 or 1 if the interval excludes 0; otherwise 0, also if the statistic is not known."""
        if not self.known:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    def text(self, digits: int = 2) -> str:
        """Return a text for tables: "-0.12 [-0.20, -0.03]"."""
        if not self.known:
            return "diverged"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.value:+.{digits}f} [unknown]"
        return f"{self.value:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"

    @property
    def json_data(self) -> list[float | None]:
        """The three numbers, ready for JSON."""
        return [finite_or_none(number) for number in self]


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def bootstrap_mean(values: np.ndarray) -> Estimate:
    """Return the mean over seeds with its bootstrap interval.

    The bootstrap is bias-corrected and accelerated (Efron 1987). With few seeds, the interval is
    somewhat too narrow.

    Args:
        values: [seeds], for example differences.

    Example:
        >>> bootstrap_mean(np.array([1.0, 2.0, 3.0])).value
        2.0
    """
    return _bootstrap_estimate(values, lambda samples, axis=-1: np.mean(samples, axis=axis))


def mean_log_ratio(variant: np.ndarray, base: np.ndarray) -> Estimate:
    """Return the mean of log(variant / base), paired by seed; negative means smaller.

    Args:
        variant: Losses [seeds]; those below `bounded_loss.LEAST_LOSS` count as that.
        base: Losses [seeds], for the same seeds.
    """
    with np.errstate(all="ignore"):
        return bootstrap_mean(np.log(bounded_loss(variant) / bounded_loss(base)))


def variance_change(variant: np.ndarray, base: np.ndarray) -> Estimate:
    """Return `(VAR_variant - VAR_base) / VAR_base` over seeds (paper Fig. 6b and 8).

    A negative change means a smaller variance. Seeds are resampled in pairs. With few seeds, the
    interval is very wide.

    Args:
        variant: [seeds].
        base: [seeds], for the same seeds.
    """

    def change(variant: np.ndarray, base: np.ndarray, axis: int = -1) -> Any:
        # Resamples of one repeated seed have no variance: NaN removes them.
        base_variance = np.var(base, axis=axis, ddof=1)
        variance = np.var(variant, axis=axis, ddof=1)
        return variance / np.where(base_variance > 0, base_variance, np.nan) - 1

    return _bootstrap_estimate(variant, change, base)


def _bootstrap_estimate(values: np.ndarray, statistic: Any, *paired: np.ndarray) -> Estimate:
    from scipy import stats

    samples = [np.asarray(array, np.float64) for array in (values, *paired)]
    if not all(np.isfinite(sample).all() for sample in samples) or len(samples[0]) < 2:
        return UNKNOWN
    value = float(statistic(*samples))
    # Without spread the bootstrap fails; the interval is a point.
    if all(np.ptp(sample) == 0 for sample in samples):
        return Estimate(value, value, value)
    options: dict[str, Any] = {
        "paired": len(samples) > 1,
        "vectorized": True,
        "confidence_level": CONFIDENCE_LEVEL,
        "n_resamples": BOOTSTRAP_RESAMPLES,
    }
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # BCa has no result if a resample consists of equal values only.
        for method in ("BCa", "percentile"):
            # A fixed seed makes the report reproducible.
            rng = np.random.default_rng(0)
            result = stats.bootstrap(samples, statistic, method=method, rng=rng, **options)
            low, high = result.confidence_interval
            if math.isfinite(low) and math.isfinite(high):
                return Estimate(value, float(low), float(high))
    return Estimate(value, -math.inf, math.inf)
