"""How samples are weighed over time, and which images most and least."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.report.charts import Chart, chart
from gtddp_jax.training.report.checks import Picture
from gtddp_jax.training.report.series import Curve, Series
from gtddp_jax.training.watch import LEVELS

MIDDLE = len(LEVELS) // 2
BANDS = (1, 4, 10)
"""Quantiles at which the bands begin; they end as far from the other end: 95, 80 and 50 per cent of
the weights. The extremes would flatten all the rest; the images show them."""

NOTE = (
    "Line: median of the weights of {images} watched training images in all stages, after the "
    "epoch. Bands: 50, 80 and 95 % of the weights. 1 is an ordinary gradient."
)
FALLBACK = "Line: mean weight over the epoch's batches. Band: smallest to largest. Mean over seeds."


class Shown(NamedTuple):
    """An image: its number in the training part, its weight, its picture or None."""

    index: int
    weight: str
    picture: Picture | None


class Moment(NamedTuple):
    """The images that weigh most and least after an epoch."""

    epoch: int
    highest: list[Shown]
    lowest: list[Shown]


class Weighed(NamedTuple):
    """A series' weights: a chart, and images of one of its seeds at a few moments."""

    series: Series
    chart: Chart | None
    seed: int
    moments: list[Moment]


def weighed(series: Sequence[Series]) -> list[Weighed]:
    """The weights of every game."""
    return [_weighed(one) for one in series if one.method.weighs]


def _weighed(series: Series) -> Weighed:
    seed = series.records[0].seed
    of_seed = [r for r in series.records if r.seed == seed and r.weights is not None]
    places = sorted({0, len(of_seed) // 2, len(of_seed) - 1}) if of_seed else []
    return Weighed(
        series, _chart(series), seed, [_moment(of_seed[i], series.run.pictures) for i in places]
    )


def _moment(record: EpochRecord, pictures: dict[int, Picture]) -> Moment:
    assert record.weights is not None
    highest, lowest = (
        [Shown(int(i), f"{weight:.3g}", pictures.get(i)) for i, weight in record.weights[name]]
        for name in ("highest", "lowest")
    )
    return Moment(record.epoch, highest, lowest)


def _chart(series: Series) -> Chart | None:
    """The fan of quantiles; of epochs without them what the batches' reports say."""
    by_epoch: dict[int, list[dict[str, Any]]] = {}
    for record in series.records:
        if record.weights is not None and record.weights["quantiles"]:
            by_epoch.setdefault(record.epoch, []).append(record.weights)
    key, title = f"weights-{series.key}", f"Weights, {series.label}"
    if by_epoch:
        epochs = range(1, max(by_epoch) + 1)
        nothing = np.full(len(LEVELS), np.nan)
        table = np.array(
            [
                np.mean([kept["quantiles"] for kept in by_epoch[e]], axis=0)
                if e in by_epoch
                else nothing
                for e in epochs
            ]
        ).T
        bands = [(table[i].tolist(), table[-1 - i].tolist()) for i in BANDS]
        images = max(kept["images"] for found in by_epoch.values() for kept in found)
        curve = Curve(table[MIDDLE].tolist(), bands)
        return chart(key, title, NOTE.format(images=images), [(series, curve)])
    return chart(key, title, FALLBACK, [(series, _reported(series.records))])


def _reported(records: Sequence[EpochRecord]) -> Curve | None:
    names = ("weight_min", "weight_mean", "weight_max")
    rows: dict[int, list[list[float]]] = {}
    for record in records:
        if all(isinstance(record.report.get(name), (int, float)) for name in names):
            rows.setdefault(record.epoch, []).append([record.report[name] for name in names])
    if not rows:
        return None
    nothing = [[np.nan] * 3]
    low, middle, high = np.array(
        [np.mean(rows.get(e, nothing), axis=0) for e in range(1, max(rows) + 1)]
    ).T.tolist()
    return Curve(middle, [(low, high)])
