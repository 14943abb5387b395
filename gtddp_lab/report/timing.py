"""How each method spent its time, summed over all seeds and all starts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gtddp_lab.report import checks
from gtddp_lab.report.collect import ReportedRun
from gtddp_lab.report.series import MethodSeries
from gtddp_lab.report.sources import ReportError
from gtddp_lab.training.clock import TIME_PARTS

PART_NAMES = {
    "loading": "loading data, building",
    "compilation": "compilation of steps",
    "steps": "steps",
    "evaluation": "evaluation",
    "weights": "watching sample weights",
    "checkpoints": "checkpoints",
    "batches": "order of batches",
}
"""Display names of the parts."""

LEAST_SHOWN_SECONDS = 5e-4
"""Parts that take less are not shown."""


class TimeShare(NamedTuple):
    """A part of a method's time: key, name, seconds, and per cent of the longest method's time."""

    key: str
    name: str
    seconds: float
    width: float


class MethodTimes(NamedTuple):
    """Time of a method.

    Attributes:
        series: The method.
        total: Seconds in total.
        shares: Its parts.
        per_epoch: Seconds of training steps per epoch, mean over epochs and seeds.
    """

    series: MethodSeries
    total: float
    shares: list[TimeShare]
    per_epoch: float


def recorded_seconds(run: ReportedRun, method: str) -> dict[str, float]:
    """Return seconds by part. Starts of older versions recorded only steps and compilation."""
    total: dict[str, float] = {}
    for start in run.starts:
        try:
            by_method = checks.require_mapping(start["seconds"], "seconds")
            by_part = checks.require_mapping(by_method.get(method, {}), "seconds")
            for part, seconds in by_part.items():
                if part in TIME_PARTS:
                    total[part] = total.get(part, 0.0) + checks.require_number(seconds, "seconds")
        except (KeyError, ReportError):
            continue  # already noted in `ReportedRun.missing`
    steps = sum(record.seconds for record in run.records_of(method))
    # An interrupted start does not record its times, but its epochs do.
    if total.get("steps", 0.0) < steps:
        total["steps"] = steps
    if "compilation" not in total and run.compile_seconds.get(method, 0.0) > 0:
        total["compilation"] = run.compile_seconds[method]
    return {
        part: total[part]
        for part in TIME_PARTS
        if LEAST_SHOWN_SECONDS <= total.get(part, 0.0) < math.inf
    }


def method_times(series: Sequence[MethodSeries]) -> list[MethodTimes]:
    """Return the time of every series."""
    by_series = [(entry, recorded_seconds(entry.run, entry.method.name)) for entry in series]
    longest = max((sum(parts.values()) for _, parts in by_series), default=0.0) or 1.0
    return [
        MethodTimes(
            entry,
            sum(parts.values()),
            [
                TimeShare(part, PART_NAMES[part], seconds, round(100 * seconds / longest, 2))
                for part, seconds in parts.items()
            ],
            sum(record.seconds for record in entry.records) / len(entry.records),
        )
        for entry, parts in by_series
    ]


def loading_seconds(run: ReportedRun) -> float | None:
    """Return the seconds of loading and building over all starts; None if not recorded."""
    return recorded_seconds(run, "").get("loading")
