"""Means over seeds with Student's confidence interval, as curves and as text."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_mean_band(
    axes: "Axes", x: Any, values: np.ndarray, label: str, colour: str, log: bool
) -> None:
    """Draw a mean over seeds with its 95 % confidence interval (Student's t).

    Args:
        axes: where to draw.
        x: [points].
        values: [seeds, points]. One seed has no band.
        label: entry in the legend.
        colour: colour of line and band.
        log: whether to take mean and interval of the logarithm.
    """
    mean, half_width = mean_and_half_width(np.log(values) if log else values)
    invert = np.exp if log else np.asarray
    axes.plot(x, invert(mean), color=colour, marker=".", label=label)
    axes.fill_between(
        x, invert(mean - half_width), invert(mean + half_width), color=colour, alpha=0.2, lw=0
    )


def mean_and_half_width(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the first axis and the half-width of its 95 % confidence interval.

    The interval is Student's t. A single value has no interval; its half-width is NaN.

    Example:
        >>> mean, half_width = mean_and_half_width(np.array([1.0, 2.0, 3.0]))
        >>> float(mean), round(float(half_width), 2)
        (2.0, 2.48)
    """
    from scipy import stats

    count = len(values)
    if count < 2:
        return values.mean(0), np.full(values.shape[1:], np.nan)
    quantile = float(stats.t.ppf(0.975, count - 1))
    return values.mean(0), quantile * values.std(0, ddof=1) / np.sqrt(count)


def interval_text(mean: float, half_width: float, form: str) -> str:
    """Return `mean ± half-width`, or the mean alone if there is no interval.

    Example:
        >>> interval_text(0.5, 0.25, "+.2f"), interval_text(0.5, np.nan, ".1f")
        ('+0.50 ± 0.25', '0.5')
    """
    error = "" if np.isnan(half_width) else f" ± {half_width:{form.lstrip('+')}}"
    return f"{mean:{form}}{error}"
