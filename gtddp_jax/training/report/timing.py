"""Where the time of each method went, all seeds and all starts together."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gtddp_jax.training.clock import PARTS
from gtddp_jax.training.report import checks
from gtddp_jax.training.report.collect import Run
from gtddp_jax.training.report.series import Series
from gtddp_jax.training.report.sources import ReportError

NAMES = {
    "loading": "loading data, building",
    "compilation": "compilation of steps",
    "steps": "steps",
    "evaluation": "evaluation",
    "weights": "watching weights",
    "checkpoints": "checkpoints",
    "batches": "order of batches",
}
"""Parts as people call them."""

LEAST = 5e-4
"""Seconds below which a part is not shown."""


class Share(NamedTuple):
    """A part of a method's time: key, name, seconds, per cent of the longest method's time."""

    key: str
    name: str
    seconds: float
    width: float


class Times(NamedTuple):
    """A method's time.

    Attributes:
        series: The method.
        total: Seconds in all.
        shares: Its parts.
        per_epoch: Seconds of steps an epoch, mean over epochs and seeds.
    """

    series: Series
    total: float
    shares: list[Share]
    per_epoch: float


def recorded(run: Run, method: str) -> dict[str, float]:
    """Seconds by part. Where a start did not record them, steps and compilation alone."""
    found: dict[str, float] = {}
    for start in run.starts:
        try:
            by_method = checks.mapping(start["seconds"], "seconds")
            for part, seconds in checks.mapping(by_method.get(method, {}), "seconds").items():
                if part in PARTS:
                    found[part] = found.get(part, 0.0) + checks.number(seconds, "seconds")
        except (KeyError, ReportError):
            continue  # said in `Run.missing`
    steps = sum(record.seconds for record in run.of(method))
    if found.get("steps", 0.0) < steps:
        found["steps"] = steps
    if "compilation" not in found and run.compile_seconds.get(method, 0.0) > 0:
        found["compilation"] = run.compile_seconds[method]
    return {part: found[part] for part in PARTS if LEAST <= found.get(part, 0.0) < math.inf}


def times(series: Sequence[Series]) -> list[Times]:
    """The time of every series."""
    found = [(one, recorded(one.run, one.method.name)) for one in series]
    longest = max((sum(parts.values()) for _, parts in found), default=0.0) or 1.0
    return [
        Times(
            one,
            sum(parts.values()),
            [
                Share(part, NAMES[part], seconds, round(100 * seconds / longest, 2))
                for part, seconds in parts.items()
            ],
            sum(record.seconds for record in one.records) / len(one.records),
        )
        for one, parts in found
    ]


def loading(run: Run) -> float | None:
    """Seconds of reading data and building, over all starts; None if not recorded."""
    parts = recorded(run, "")
    return parts.get("loading")
