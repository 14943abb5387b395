"""From curves to places: ticks and paths in per mille of a plot's width and height.

The page stretches a plot to the room there is and keeps strokes and letters at their size, so that
one drawing serves every screen, with a script or without.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gtddp_jax.training.report.series import Curve, Series

SIZE = 1000
LARGEST = 1e150
"""What is beyond it is not drawn: differences of such numbers may not be finite."""

MARGIN = 0.05
"""Room above and below the curves, as a part of their range."""

LABEL_GAP = 75
"""Least distance between two labels at the curves' ends, per mille of the height."""

DOTTED = 24
"""Up to so many epochs each of them has a dot."""


class Tick(NamedTuple):
    """A place on an axis, in per mille, and its label."""

    place: float
    label: str


class Line(NamedTuple):
    """A series in a plot.

    Attributes:
        series: The series.
        path: Its line, as an SVG path.
        dots: Its epochs, as an SVG path of points.
        bands: Its bands, as SVG paths.
        label: Where its label is, in per mille from above; None if it has no finite value.
    """

    series: Series
    path: str
    dots: str
    bands: list[str]
    label: float | None


@dataclass(frozen=True)
class Scale:
    """A plot with one vertical scale: ticks and lines; where zero is, if it is inside."""

    name: str
    ticks: list[Tick]
    lines: list[Line]
    zero: float | None


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        key: Identifier in the page.
        title: What is drawn, with its unit.
        note: What line and band are.
        epochs: Ticks of the horizontal axis.
        last: The last epoch.
        scales: The linear scale, and the logarithmic one where all values are positive; the one to
            begin with is first.
        data: For the page's script: epochs and curves of every series, by key.
    """

    key: str
    title: str
    note: str
    epochs: list[Tick]
    last: int
    scales: list[Scale]
    data: dict[str, Any]


def chart(
    key: str,
    title: str,
    note: str,
    curves: Sequence[tuple[Series, Curve | None]],
    *,
    log: bool = False,
    first: int = 1,
) -> Chart | None:
    """Draws a chart.

    Args:
        key: Identifier in the page.
        title: What is drawn, with its unit.
        note: What line and band are.
        curves: The curves; None where a series has none.
        log: Whether the logarithmic scale comes first, where there is one.
        first: The first epoch.

    Returns:
        The chart; None if nothing finite is to be drawn.
    """
    drawn = [(series, _drawable(curve)) for series, curve in curves if curve is not None]
    values = [v for _, curve in drawn for line in _lines(curve) for v in line if math.isfinite(v)]
    if not values:
        return None
    last = max(len(curve.middle) for _, curve in drawn)
    places = _Places(first, last)
    scales = [_scale("linear", drawn, places, values)]
    if min(values) > 0:
        scales.append(_scale("log", drawn, places, values))
    return Chart(
        key=key,
        title=title,
        note=note,
        epochs=places.ticks(),
        last=last,
        scales=scales[::-1] if log else scales,
        data={series.key: _told(curve) for series, curve in drawn},
    )


def _drawable(curve: Curve) -> Curve:
    """The curve without what is too large."""

    def kept(line: Sequence[float]) -> list[float]:
        return [v if abs(v) < LARGEST else math.nan for v in line]

    return Curve(kept(curve.middle), [(kept(low), kept(high)) for low, high in curve.bands])


def _told(curve: Curve) -> dict[str, Any]:
    """Curves as JSON has them: null where a value is not finite."""

    def finite(line: Sequence[float]) -> list[float | None]:
        return [v if math.isfinite(v) else None for v in line]

    return {
        "middle": finite(curve.middle),
        "bands": [[finite(low), finite(high)] for low, high in curve.bands],
    }


def _lines(curve: Curve) -> list[list[float]]:
    return [curve.middle, *(line for band in curve.bands for line in band)]


class _Places(NamedTuple):
    """The horizontal axis."""

    first: int
    last: int

    def __call__(self, epoch: int) -> float:
        """Where an epoch is."""
        span = self.last - self.first
        return SIZE / 2 if span == 0 else SIZE * (epoch - self.first) / span

    def ticks(self) -> list[Tick]:
        """At most seven whole numbers."""
        from matplotlib.ticker import MaxNLocator

        if self.first == self.last:
            return [Tick(SIZE / 2, f"epoch {self.first}")]
        found = MaxNLocator(6, integer=True).tick_values(self.first, self.last)
        inside = sorted({int(v) for v in found if self.first < v <= self.last})
        return [
            Tick(0.0, f"epoch {self.first}"),
            *(Tick(_short(self(e)), str(e)) for e in inside if self(e) > LABEL_GAP),
        ]


def _scale(
    name: str, drawn: Sequence[tuple[Series, Curve]], places: _Places, values: Sequence[float]
) -> Scale:
    move = np.log10 if name == "log" else lambda v: v
    low, high = float(move(min(values))), float(move(max(values)))
    room = MARGIN * (high - low) or abs(high) * MARGIN or 0.5
    low, high = low - room, high + room
    if name == "linear" and min(values) >= 0:
        low = max(low, 0.0)

    def height(value: float) -> float:
        return SIZE * (high - float(move(value))) / (high - low)

    lines = [_line(series, curve, places, height) for series, curve in drawn]
    ticks = [Tick(_short(height(v)), f"{v:.4g}") for v in _tick_values(name, low, high)]
    zero = _short(height(0.0)) if name == "linear" and min(values) < 0 < high else None
    return Scale(name, ticks, _apart(lines), zero)


def _tick_values(name: str, low: float, high: float) -> list[float]:
    """Round numbers between two ends; the ends of a logarithmic scale are exponents of ten."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if name == "linear":
        found = MaxNLocator(5).tick_values(low, high)
        return [0.0 if abs(v) < 1e-12 * (high - low) else v for v in found if low <= v <= high]
    ends = 10**low, 10**high
    if high - low >= 1:
        subs = (1.0,) if high - low > 3 else (1.0, 2.0, 5.0)
        found = LogLocator(subs=subs, numticks=8).tick_values(*ends)
    else:
        found = MaxNLocator(5).tick_values(*ends)
    return [float(v) for v in found if ends[0] <= v <= ends[1]]


def _line(series: Series, curve: Curve, places: _Places, height: Any) -> Line:
    spots = [
        (_short(places(places.first + i)), _short(height(v))) if math.isfinite(v) else None
        for i, v in enumerate(curve.middle)
    ]
    seen = [spot for spot in spots if spot is not None]
    few = len(seen) <= DOTTED
    return Line(
        series=series,
        path=_path(spots),
        dots="".join(f"M{x} {y}h0" for x, y in (seen if few else seen[-1:])),
        bands=[_band(band, places, height) for band in curve.bands],
        label=seen[-1][1] if seen else None,
    )


def _path(spots: Sequence[tuple[float, float] | None]) -> str:
    """A line that is broken where a value is not finite."""
    path, pen = [], "M"
    for spot in spots:
        if spot is None:
            pen = "M"
            continue
        path.append(f"{pen}{spot[0]} {spot[1]}")
        pen = "L"
    return "".join(path)


def _band(band: tuple[list[float], list[float]], places: _Places, height: Any) -> str:
    """The area between two lines, over the epochs where both are finite."""
    pairs = [
        (_short(places(places.first + i)), _short(height(low)), _short(height(high)))
        for i, (low, high) in enumerate(zip(*band, strict=True))
        if math.isfinite(low) and math.isfinite(high)
    ]
    if not pairs:
        return ""
    there = [f"{x} {low}" for x, low, _ in pairs]
    back = [f"{x} {high}" for x, _, high in reversed(pairs)]
    return f"M{'L'.join([*there, *back])}Z"


def _apart(lines: list[Line]) -> list[Line]:
    """The lines with labels that do not lie over each other."""
    labelled = sorted(
        (line for line in lines if line.label is not None), key=lambda line: line.label or 0.0
    )
    gap = min(LABEL_GAP, SIZE / max(len(labelled), 1))
    places = [line.label or 0.0 for line in labelled]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    limit = float(SIZE)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    moved = {line.series.key: _short(place) for line, place in zip(labelled, places, strict=True)}
    return [line._replace(label=moved.get(line.series.key)) for line in lines]


def _short(place: float) -> float:
    return round(place, 1)
