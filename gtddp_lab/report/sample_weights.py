"""Distribution of the sample weights over the epochs, and the images with extreme weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gtddp_lab.report.charts import Chart, draw_chart
from gtddp_lab.report.checks import WatchedImage
from gtddp_lab.report.series import Curve, MethodSeries
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.watch import QUANTILE_LEVELS

MEDIAN_LEVEL = len(QUANTILE_LEVELS) // 2
BAND_LEVELS = (1, 4, 10)
"""Lower quantiles of the bands, which hold 95, 80 and 50 per cent of the sample weights.

A band up to the extremes would flatten all others; the images show the extremes instead.
"""

QUANTILE_NOTE = (
    "Line: median of the sample weights of {images} watched training images in all stages, after "
    "the epoch. Bands: 50, 80 and 95 % of them. A weight of 1 is the ordinary gradient."
)
BATCH_RANGE_NOTE = (
    "Line: mean sample weight of the epoch's batches. Band: smallest to largest. Mean over seeds."
)


class WeightedImage(NamedTuple):
    """An image: its index in the training split, its sample weight as text, the image if known."""

    number: int
    weight: str
    image: WatchedImage | None


class ExtremeImages(NamedTuple):
    """The images with the highest and the lowest sample weights after an epoch."""

    epoch: int
    highest: list[WeightedImage]
    lowest: list[WeightedImage]


class SampleWeightView(NamedTuple):
    """The sample weights of a series: a chart, and extreme images of one seed at a few epochs."""

    series: MethodSeries
    chart: Chart | None
    seed: int
    moments: list[ExtremeImages]


def sample_weight_views(series: Sequence[MethodSeries]) -> list[SampleWeightView]:
    """Return the sample weights of every game."""
    return [_sample_weight_view(entry) for entry in series if entry.method.has_sample_weights]


def _sample_weight_view(series: MethodSeries) -> SampleWeightView:
    seed = series.records[0].seed
    watched = [
        record
        for record in series.records
        if record.seed == seed and record.sample_weights is not None
    ]
    # The first, the middle and the last epoch; a set, because they may coincide.
    positions = sorted({0, len(watched) // 2, len(watched) - 1}) if watched else []
    moments = [_extreme_images(watched[position], series.run.images) for position in positions]
    return SampleWeightView(series, _sample_weight_chart(series), seed, moments)


def _extreme_images(record: EpochRecord, images: dict[int, WatchedImage]) -> ExtremeImages:
    assert record.sample_weights is not None
    highest, lowest = (
        [
            WeightedImage(int(index), f"{weight:.3g}", images.get(index))
            for index, weight in record.sample_weights[end]
        ]
        for end in ("highest", "lowest")
    )
    return ExtremeImages(record.epoch, highest, lowest)


def _sample_weight_chart(series: MethodSeries) -> Chart | None:
    """A fan chart of quantiles; without them, the range of the weights in the batches."""
    by_epoch: dict[int, list[dict[str, Any]]] = {}
    for record in series.records:
        if record.sample_weights is not None and record.sample_weights["quantiles"]:
            by_epoch.setdefault(record.epoch, []).append(record.sample_weights)
    if by_epoch:
        images = max(digest["images"] for digests in by_epoch.values() for digest in digests)
        note, curve = QUANTILE_NOTE.format(images=images), _quantile_curve(by_epoch)
    else:
        note, curve = BATCH_RANGE_NOTE, _batch_range_curve(series.records)
    title = f"Sample weights, {series.label}"
    return draw_chart(f"weights-{series.key}", title, note, [(series, curve)])


def _quantile_curve(by_epoch: dict[int, list[dict[str, Any]]]) -> Curve:
    """Median and bands over the epochs, means over seeds; NaN for epochs without digest."""
    unknown = np.full(len(QUANTILE_LEVELS), np.nan)
    rows = [
        np.mean([digest["quantiles"] for digest in by_epoch[epoch]], axis=0)
        if epoch in by_epoch
        else unknown
        for epoch in range(1, max(by_epoch) + 1)
    ]
    table = np.array(rows).T
    bands = [(table[level].tolist(), table[-1 - level].tolist()) for level in BAND_LEVELS]
    return Curve(table[MEDIAN_LEVEL].tolist(), bands)


def _batch_range_curve(records: Sequence[EpochRecord]) -> Curve | None:
    """Mean, smallest and largest sample weight of the batches, from the optimizer's report."""
    names = ("sample_weight_min", "sample_weight_mean", "sample_weight_max")
    rows: dict[int, list[list[Any]]] = {}
    for record in records:
        if all(isinstance(record.report.get(name), (int, float)) for name in names):
            rows.setdefault(record.epoch, []).append([record.report[name] for name in names])
    if not rows:
        return None
    unknown = [[np.nan] * 3]
    epochs = range(1, max(rows) + 1)
    low, middle, high = np.array(
        [np.mean(rows.get(epoch, unknown), axis=0) for epoch in epochs]
    ).T.tolist()
    return Curve(middle, [(low, high)])
