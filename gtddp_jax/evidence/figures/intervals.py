"""Means over seeds with Student's interval, drawn and written."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def band(axes: "Axes", x: Any, values: np.ndarray, label: str, colour: str, log: bool) -> None:
    """A mean over seeds with its 95 % confidence interval (Student's t).

    Args:
        axes: where to draw.
        x: [points].
        values: [seeds, points]. One seed has no band.
        label: in the legend.
        colour: of line and band.
        log: whether mean and interval are those of the logarithm.
    """
    mean, half = mean_and_half(np.log(values) if log else values)
    shown = np.exp if log else np.asarray
    axes.plot(x, shown(mean), color=colour, marker=".", label=label)
    axes.fill_between(x, shown(mean - half), shown(mean + half), color=colour, alpha=0.2, lw=0)


def mean_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis and half the width of its 95 % confidence interval.

    The interval is Student's t; its half-width is NaN with a single value, which has none.

    Example:
        >>> mean, half = mean_and_half(np.array([1.0, 2.0, 3.0]))
        >>> float(mean), round(float(half), 2)
        (2.0, 2.48)
    """
    from scipy import stats

    count = len(values)
    if count < 2:
        return values.mean(0), np.full(values.shape[1:], np.nan)
    quantile = float(stats.t.ppf(0.975, count - 1))
    return values.mean(0), quantile * values.std(0, ddof=1) / np.sqrt(count)


def with_interval(mean: float, half: float, form: str) -> str:
    """`mean ± half`, or the mean alone where there is no interval.

    Example:
        >>> with_interval(0.5, 0.25, "+.2f"), with_interval(0.5, np.nan, ".1f")
        ('+0.50 ± 0.25', '0.5')
    """
    error = "" if np.isnan(half) else f" ± {half:{form.lstrip('+')}}"
    return f"{mean:{form}}{error}"
