"""From curves to coordinates: ticks and SVG paths in per mille of a plot's width and height.

The page stretches a plot to the available space but keeps the size of strokes and letters. One
drawing therefore serves every screen, with or without JavaScript.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gtddp_lab.core.drawing import load_matplotlib
from gtddp_lab.report.series import Curve, MethodSeries

PLOT_SIZE = 1000
LARGEST_DRAWN = 1e150
"""Larger values are not drawn, because their differences may overflow."""

PLOT_MARGIN = 0.05
"""Space above and below the curves, as a fraction of their range."""

LABEL_GAP = 75
"""Smallest distance between two labels at the ends of curves, in per mille of the height."""

MOST_DOTTED_EPOCHS = 24
"""Up to this number of epochs, each epoch has a dot."""


Height: TypeAlias = Callable[[float], float]
"""Maps a value to its position in per mille from the top."""


class AxisTick(NamedTuple):
    """A position on an axis, in per mille, and its label."""

    position: float
    label: str


class ChartLine(NamedTuple):
    """A series in a plot.

    Attributes:
        series: The series.
        path: Its line, as an SVG path.
        dots: Its epochs, as an SVG path of points.
        bands: Its bands, as SVG paths.
        label_position: Position of its label, in per mille from the top; None without finite value.
    """

    series: MethodSeries
    path: str
    dots: str
    bands: list[str]
    label_position: float | None


@dataclass(frozen=True)
class ChartScale:
    """A plot with one vertical scale.

    Attributes:
        name: "linear" or "log".
        ticks: Ticks of the vertical axis.
        lines: The series.
        zero: Position of zero, in per mille from the top; None if it is outside of the plot.
    """

    name: str
    ticks: list[AxisTick]
    lines: list[ChartLine]
    zero: float | None


@dataclass(frozen=True)
class Chart:
    """A chart over the epochs.

    Attributes:
        key: Identifier in the page.
        title: Title, with the unit.
        note: Explanation of line and band.
        epochs: Ticks of the horizontal axis.
        last: The last epoch.
        scales: The linear scale, and the logarithmic one if all values are positive; the first one
            is shown initially.
        data: The curves of each series by key, for the script of the page.
    """

    key: str
    title: str
    note: str
    epochs: list[AxisTick]
    last: int
    scales: list[ChartScale]
    data: dict[str, Any]


def draw_chart(
    key: str,
    title: str,
    note: str,
    curves: Sequence[tuple[MethodSeries, Curve | None]],
    *,
    log: bool = False,
    first: int = 1,
) -> Chart | None:
    """Draw a chart.

    Args:
        key: Identifier in the page.
        title: Title, with the unit.
        note: Explanation of line and band.
        curves: The curves; None for a series without one.
        log: Whether to put the logarithmic scale first, if there is one.
        first: The first epoch.

    Returns:
        The chart; None without any finite value.
    """
    drawn = [(series, _without_huge_values(curve)) for series, curve in curves if curve is not None]
    values = [
        value
        for _, curve in drawn
        for line in _curve_lines(curve)
        for value in line
        if math.isfinite(value)
    ]
    if not values:
        return None
    last = max(len(curve.middle) for _, curve in drawn)
    epoch_axis = _EpochAxis(first, last)
    scales = [_draw_scale("linear", drawn, epoch_axis, values)]
    # A logarithmic axis needs positive values.
    if min(values) > 0:
        scales.append(_draw_scale("log", drawn, epoch_axis, values))
    return Chart(
        key=key,
        title=title,
        note=note,
        epochs=epoch_axis.ticks(),
        last=last,
        scales=scales[::-1] if log else scales,
        data={series.key: _json_curve(curve) for series, curve in drawn},
    )


def _without_huge_values(curve: Curve) -> Curve:
    """The curve with NaN in place of values that are too large."""

    def limited(line: Sequence[float]) -> list[float]:
        return [value if abs(value) < LARGEST_DRAWN else math.nan for value in line]

    return Curve(
        limited(curve.middle), [(limited(low), limited(high)) for low, high in curve.bands]
    )


def _json_curve(curve: Curve) -> dict[str, Any]:
    """The curve for JSON, with None (null) for values that are not finite."""

    def finite(line: Sequence[float]) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in line]

    return {
        "middle": finite(curve.middle),
        "bands": [[finite(low), finite(high)] for low, high in curve.bands],
    }


def _curve_lines(curve: Curve) -> list[list[float]]:
    return [curve.middle, *(line for band in curve.bands for line in band)]


class _EpochAxis(NamedTuple):
    """The horizontal axis."""

    first: int
    last: int

    def position(self, epoch: int) -> float:
        """Position of an epoch, in per mille from the left."""
        span = self.last - self.first
        return PLOT_SIZE / 2 if span == 0 else PLOT_SIZE * (epoch - self.first) / span

    def ticks(self) -> list[AxisTick]:
        """At most seven integers; the first one is labelled as an epoch."""
        load_matplotlib()
        from matplotlib.ticker import MaxNLocator

        if self.first == self.last:
            return [AxisTick(PLOT_SIZE / 2, f"epoch {self.first}")]
        candidates = MaxNLocator(6, integer=True).tick_values(self.first, self.last)
        inside = sorted({int(value) for value in candidates if self.first < value <= self.last})
        return [
            AxisTick(0.0, f"epoch {self.first}"),
            *(
                AxisTick(_rounded(self.position(epoch)), str(epoch))
                for epoch in inside
                if self.position(epoch) > LABEL_GAP
            ),
        ]


def _draw_scale(
    name: str,
    drawn: Sequence[tuple[MethodSeries, Curve]],
    epoch_axis: _EpochAxis,
    values: Sequence[float],
) -> ChartScale:
    transform = np.log10 if name == "log" else lambda value: value
    low, high = float(transform(min(values))), float(transform(max(values)))
    # A constant curve has no range: use its size, or 0.5 if it is zero.
    margin = PLOT_MARGIN * (high - low) or abs(high) * PLOT_MARGIN or 0.5
    low, high = low - margin, high + margin
    # The margin must not show negative losses or accuracies.
    if name == "linear" and min(values) >= 0:
        low = max(low, 0.0)

    def height(value: float) -> float:
        return PLOT_SIZE * (high - float(transform(value))) / (high - low)

    lines = [_draw_line(series, curve, epoch_axis, height) for series, curve in drawn]
    ticks = [
        AxisTick(_rounded(height(value)), f"{value:.4g}") for value in _tick_values(name, low, high)
    ]
    # The zero line matters only where curves cross it.
    zero = _rounded(height(0.0)) if name == "linear" and min(values) < 0 < high else None
    return ChartScale(name, ticks, _spread_labels(lines), zero)


def _tick_values(name: str, low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, which are exponents of ten on a logarithmic scale."""
    load_matplotlib()
    from matplotlib.ticker import LogLocator, MaxNLocator

    if name == "linear":
        candidates = MaxNLocator(5).tick_values(low, high)
        rounding = 1e-12 * (high - low)
        return [
            0.0 if abs(value) < rounding else value for value in candidates if low <= value <= high
        ]
    ends = 10**low, 10**high
    # At least one decade: ticks at powers of ten; otherwise at round numbers.
    if high - low >= 1:
        subs = (1.0,) if high - low > 3 else (1.0, 2.0, 5.0)
        candidates = LogLocator(subs=subs, numticks=8).tick_values(*ends)
    else:
        candidates = MaxNLocator(5).tick_values(*ends)
    return [float(value) for value in candidates if ends[0] <= value <= ends[1]]


def _draw_line(
    series: MethodSeries, curve: Curve, epoch_axis: _EpochAxis, height: Height
) -> ChartLine:
    points = [
        (_rounded(epoch_axis.position(epoch)), _rounded(height(value)))
        if math.isfinite(value)
        else None
        for epoch, value in enumerate(curve.middle, epoch_axis.first)
    ]
    finite = [point for point in points if point is not None]
    # Many dots would hide the line; then only the last epoch has one.
    dotted = finite if len(finite) <= MOST_DOTTED_EPOCHS else finite[-1:]
    return ChartLine(
        series=series,
        path=_line_path(points),
        dots="".join(f"M{x} {y}h0" for x, y in dotted),
        bands=[_band_path(band, epoch_axis, height) for band in curve.bands],
        label_position=finite[-1][1] if finite else None,
    )


def _line_path(points: Sequence[tuple[float, float] | None]) -> str:
    """A line with gaps at the values that are not finite."""
    path, command = [], "M"
    for point in points:
        if point is None:
            command = "M"
            continue
        path.append(f"{command}{point[0]} {point[1]}")
        command = "L"
    return "".join(path)


def _band_path(
    band: tuple[list[float], list[float]], epoch_axis: _EpochAxis, height: Height
) -> str:
    """The area between two lines, over the epochs at which both are finite."""
    edges = [
        (_rounded(epoch_axis.position(epoch)), _rounded(height(low)), _rounded(height(high)))
        for epoch, (low, high) in enumerate(zip(*band, strict=True), epoch_axis.first)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if not edges:
        return ""
    lower = [f"{x} {low}" for x, low, _ in edges]
    # Along the lower line, and back along the upper one.
    upper = [f"{x} {high}" for x, _, high in reversed(edges)]
    return f"M{'L'.join([*lower, *upper])}Z"


def _spread_labels(lines: list[ChartLine]) -> list[ChartLine]:
    """Move labels apart that would overlap: first down, then up from the lower end."""
    labelled = sorted(
        (line for line in lines if line.label_position is not None),
        key=lambda line: line.label_position or 0.0,
    )
    # Many labels must share the height of the plot.
    gap = min(LABEL_GAP, PLOT_SIZE / max(len(labelled), 1))
    positions = [line.label_position or 0.0 for line in labelled]
    for index in range(1, len(positions)):
        positions[index] = max(positions[index], positions[index - 1] + gap)
    limit = float(PLOT_SIZE)
    for index in reversed(range(len(positions))):
        positions[index] = min(positions[index], limit)
        limit = positions[index] - gap
    moved = {
        line.series.key: _rounded(position)
        for line, position in zip(labelled, positions, strict=True)
    }
    return [line._replace(label_position=moved.get(line.series.key)) for line in lines]


def _rounded(position: float) -> float:
    return round(position, 1)
