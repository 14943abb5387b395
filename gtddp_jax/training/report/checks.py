"""Types and sizes of what files hold. Every check raises `ReportError` with the place."""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from gtddp_jax.network.facts import INPUTS, EdgeFacts, PlayerFacts, StageFacts
from gtddp_jax.training import description
from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.report.sources import ReportError
from gtddp_jax.training.watch import EXTREMES, LEVELS, STAGE_LEVELS

MOST_RECORDS = 100_000
MOST_STAGES = 4096
MOST_PICTURES = 20_000
LARGEST_PNG = 2**16
LONGEST_SIDE = 512
PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


class Picture(NamedTuple):
    """A training image: its label, its PNG file in base64, its width and height in pixels."""

    label: int
    png: str
    width: int
    height: int


def _need(holds: bool, place: str, what: str) -> None:
    if not holds:
        raise ReportError(f"{place} must be {what}.")


def integer(value: Any, place: str, least: int = 0) -> int:
    """A whole number from ``least`` on."""
    whole = isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**53
    _need(whole, place, f"a whole number from {least} on")
    return value


def number(value: Any, place: str) -> float:
    """A number; not necessarily finite."""
    _need(isinstance(value, (int, float)) and not isinstance(value, bool), place, "a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ReportError(f"{place} must be a number.") from error


def text(value: Any, place: str) -> str:
    """A text of at most 1000 characters."""
    _need(isinstance(value, str) and len(value) <= 1000, place, "a short text")
    return value


def items(value: Any, place: str, most: int) -> Sequence[Any]:
    """A list of at most so many entries."""
    _need(isinstance(value, list) and len(value) <= most, place, f"a list of at most {most}")
    return value


def mapping(value: Any, place: str) -> dict[str, Any]:
    """A JSON object of at most 1000 entries."""
    _need(isinstance(value, dict) and len(value) <= 1000, place, "an object")
    return value


def check_records(records: Sequence[EpochRecord], experiment: Experiment) -> None:
    """Checks that records hold numbers where they should, and belong to their experiment."""
    items(list(records), "epochs", MOST_RECORDS)
    methods = [method.name for method in experiment.methods()]
    counted: dict[tuple[str, int], int] = {}
    for record in records:
        _need(record.method in methods, "an epoch's method", f"one of {', '.join(methods)}")
        _need(record.seed in experiment.seeds, "an epoch's seed", "one of the experiment's")
        run = (record.method, integer(record.seed, "an epoch's seed"))
        counted[run] = counted.get(run, 0) + 1
        _need(record.epoch == counted[run], "the epochs of a seed", "1, 2, 3, ... in this order")
        for name in (
            "train_loss",
            "average_loss",
            "validation_loss",
            "validation_accuracy",
            "seconds",
        ):
            number(getattr(record, name), f"an epoch's {name}")
        for name, value in mapping(record.report, "an epoch's report").items():
            values = value if isinstance(value, list) else [value]
            for entry in items(values, f"report.{text(name, 'a name')[:40]}", MOST_STAGES):
                number(entry, "an entry of a report")
        if record.weights is not None:
            _check_weights(mapping(record.weights, "an epoch's weights"))


def _check_weights(weights: dict[str, Any]) -> None:
    integer(weights.get("images"), "weights.images")
    integer(weights.get("not_finite"), "weights.not_finite")
    _check_quantiles(weights.get("quantiles"), len(LEVELS), "weights.quantiles")
    for row in items(weights.get("stages"), "weights.stages", MOST_STAGES):
        _check_quantiles(row, len(STAGE_LEVELS), "weights.stages")
    for name in ("highest", "lowest"):
        for pair in items(weights.get(name), f"weights.{name}", EXTREMES):
            _need(len(items(pair, f"weights.{name}", 2)) == 2, f"weights.{name}", "pairs")
            integer(pair[0], f"weights.{name}")
            number(pair[1], f"weights.{name}")


def _check_quantiles(value: Any, count: int, place: str) -> None:
    values = items(value, place, count)
    _need(len(values) in (0, count), place, f"{count} numbers or none")
    _need(all(math.isfinite(number(entry, place)) for entry in values), place, "finite numbers")


def network(content: Any) -> tuple[StageFacts, ...]:
    """The content of network.json."""
    found = mapping(content, "network.json")
    format_ = found.get("format")
    _need(format_ == description.FORMAT, "network.json's format", str(description.FORMAT))
    stages = items(found.get("stages"), "stages", MOST_STAGES)
    _need(len(stages) > 0, "stages", "a list with an entry")
    return tuple(_stage(mapping(stage, "a stage"), t) for t, stage in enumerate(stages))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(integer(size, "a shape's size") for size in items(value, "a shape", 16))


def _stage(stage: dict[str, Any], t: int) -> StageFacts:
    players: list[PlayerFacts] = []
    for entry in items(stage.get("players"), "players", 1000):
        told = mapping(entry, "a player")
        players.append(
            PlayerFacts(
                text(told.get("name"), "a player's name"),
                text(told.get("layer"), "a player's layer"),
                _shape(told.get("input")),
                _shape(told.get("output")),
                integer(told.get("parameters"), "a player's parameters"),
                text(told.get("rule"), "a player's rule"),
            )
        )
    reads: list[EdgeFacts] = []
    for entry in items(stage.get("reads"), "reads", 1000):
        told = mapping(entry, "what is read")
        writer = integer(told.get("stage"), "the stage that is read", INPUTS)
        _need(writer < t, "the stage that is read", "an earlier one")
        reads.append(EdgeFacts(writer, _shape(told.get("shape"))))
    live = tuple(_shape(shape) for shape in items(stage.get("live"), "live", 1000))
    return StageFacts(tuple(players), tuple(reads), live)


def pictures(content: Any) -> dict[int, Picture]:
    """The content of watched.json, by image."""
    found = mapping(content, "watched.json")
    _need(found.get("format") == 1, "watched.json's format", "1")
    images: dict[int, Picture] = {}
    for entry in items(found.get("images"), "images", MOST_PICTURES):
        told = mapping(entry, "an image")
        label = integer(told.get("label"), "a label")
        index = integer(told.get("index"), "an image's index")
        images[index] = _picture(label, told.get("png"))
    return images


def _picture(label: int, png: Any) -> Picture:
    _need(isinstance(png, str) and len(png) <= LARGEST_PNG, "png", "a small PNG file in base64")
    try:
        start = base64.b64decode(png, validate=True)[:24]
    except (ValueError, binascii.Error) as error:
        raise ReportError("png must be a small PNG file in base64.") from error
    _need(start.startswith(PNG_HEADER) and len(start) == 24, "png", "a PNG file")
    width, height = struct.unpack(">II", start[16:24])
    small = 0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE
    _need(small, "an image", f"at most {LONGEST_SIDE} pixels wide and high")
    return Picture(label, png, width, height)
