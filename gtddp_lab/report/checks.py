"""Types and sizes of the content of files. Each check raises `ReportError` and names the place."""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from gtddp_jax.network import INPUTS, EdgeFacts, PlayerFacts, StageFacts
from gtddp_lab.report.sources import ReportError
from gtddp_lab.training import description
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.watch import EXTREME_COUNT, QUANTILE_LEVELS, STAGE_QUANTILE_LEVELS

MOST_RECORDS = 100_000
MOST_STAGES = 4096
MOST_IMAGES = 20_000
MOST_ENTRIES = 1000
LONGEST_TEXT = 1000
LARGEST_PNG = 2**16
LONGEST_SIDE = 512
PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"

SCORES = ("train_loss", "average_loss", "validation_loss", "validation_accuracy", "seconds")
"""Fields of `EpochRecord` that hold one number."""


class WatchedImage(NamedTuple):
    """A training image.

    Attributes:
        label: Its class.
        png: Its PNG file in base64.
        width: Width in pixels.
        height: Height in pixels.
    """

    label: int
    png: str
    width: int
    height: int


def _require(holds: bool, place: str, requirement: str) -> None:
    if not holds:
        raise ReportError(f"{place} must be {requirement}.")


def require_integer(value: Any, place: str, least: int = 0) -> int:
    """Return ``value`` if it is an integer of at least ``least``."""
    # Above 2**53 JavaScript, which shows the page, cannot represent all integers.
    valid = isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**53
    _require(valid, place, f"an integer of at least {least}")
    return value


def require_number(value: Any, place: str) -> float:
    """Return ``value`` if it is a number, finite or not."""
    _require(isinstance(value, (int, float)) and not isinstance(value, bool), place, "a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ReportError(f"{place} must be a number.") from error


def require_text(value: Any, place: str) -> str:
    """Return ``value`` if it is a text of at most `LONGEST_TEXT` characters."""
    _require(isinstance(value, str) and len(value) <= LONGEST_TEXT, place, "a short text")
    return value


def require_list(value: Any, place: str, most: int) -> Sequence[Any]:
    """Return ``value`` if it is a list of at most ``most`` entries."""
    valid = isinstance(value, list) and len(value) <= most
    _require(valid, place, f"a list of at most {most} entries")
    return value


def require_mapping(value: Any, place: str) -> dict[str, Any]:
    """Return ``value`` if it is a JSON object of at most `MOST_ENTRIES` entries."""
    _require(isinstance(value, dict) and len(value) <= MOST_ENTRIES, place, "an object")
    return value


def check_epoch_records(records: Sequence[EpochRecord], experiment: Experiment) -> None:
    """Check that the records belong to the experiment and hold numbers where they should."""
    require_list(list(records), "epochs", MOST_RECORDS)
    methods = [method.name for method in experiment.methods()]
    epochs_seen: dict[tuple[str, int], int] = {}
    for record in records:
        _require(record.method in methods, "an epoch's method", f"one of {', '.join(methods)}")
        _require(record.seed in experiment.seeds, "an epoch's seed", "one of the experiment's")
        run = (record.method, require_integer(record.seed, "an epoch's seed"))
        epochs_seen[run] = epochs_seen.get(run, 0) + 1
        in_order = record.epoch == epochs_seen[run]
        _require(in_order, "the epochs of a seed", "1, 2, 3, ... in this order")
        for name in SCORES:
            require_number(getattr(record, name), f"an epoch's {name}")
        for name, value in require_mapping(record.report, "an epoch's report").items():
            values = value if isinstance(value, list) else [value]
            place = f"report.{require_text(name, 'a name')[:40]}"
            for entry in require_list(values, place, MOST_STAGES):
                require_number(entry, "an entry of a report")
        if record.sample_weights is not None:
            _check_sample_weights(
                require_mapping(record.sample_weights, "an epoch's sample_weights")
            )


def _check_sample_weights(weights: dict[str, Any]) -> None:
    require_integer(weights.get("images"), "sample_weights.images")
    require_integer(weights.get("not_finite"), "sample_weights.not_finite")
    _check_quantiles(weights.get("quantiles"), len(QUANTILE_LEVELS), "sample_weights.quantiles")
    for row in require_list(weights.get("stages"), "sample_weights.stages", MOST_STAGES):
        _check_quantiles(row, len(STAGE_QUANTILE_LEVELS), "sample_weights.stages")
    for name in ("highest", "lowest"):
        place = f"sample_weights.{name}"
        for pair in require_list(weights.get(name), place, EXTREME_COUNT):
            _require(len(require_list(pair, place, 2)) == 2, place, "pairs")
            require_integer(pair[0], place)
            require_number(pair[1], place)


def _check_quantiles(value: Any, count: int, place: str) -> None:
    values = require_list(value, place, count)
    _require(len(values) in (0, count), place, f"{count} numbers or none")
    finite = all(math.isfinite(require_number(entry, place)) for entry in values)
    _require(finite, place, "finite numbers")


def parse_network(content: Any) -> tuple[StageFacts, ...]:
    """Parse the content of network.json."""
    document = require_mapping(content, "network.json")
    supported = description.NETWORK_FORMAT
    _require(document.get("format") == supported, "network.json's format", str(supported))
    stages = require_list(document.get("stages"), "stages", MOST_STAGES)
    _require(len(stages) > 0, "stages", "a list with at least one entry")
    return tuple(
        _parse_stage(require_mapping(stage, "a stage"), number)
        for number, stage in enumerate(stages)
    )


def _parse_shape(value: Any) -> tuple[int, ...]:
    sizes = require_list(value, "a shape", 16)
    return tuple(require_integer(size, "a shape's size") for size in sizes)


def _parse_stage(stage: dict[str, Any], number: int) -> StageFacts:
    players: list[PlayerFacts] = []
    for entry in require_list(stage.get("players"), "players", MOST_ENTRIES):
        player = require_mapping(entry, "a player")
        players.append(
            PlayerFacts(
                require_text(player.get("name"), "a player's name"),
                require_text(player.get("layer"), "a player's layer"),
                _parse_shape(player.get("input")),
                _parse_shape(player.get("output")),
                require_integer(player.get("parameters"), "a player's parameters"),
                require_text(player.get("rule"), "a player's rule"),
            )
        )
    reads: list[EdgeFacts] = []
    for entry in require_list(stage.get("reads"), "reads", MOST_ENTRIES):
        edge = require_mapping(entry, "an edge")
        writer = require_integer(edge.get("stage"), "the stage that is read", INPUTS)
        _require(writer < number, "the stage that is read", "an earlier one")
        reads.append(EdgeFacts(writer, _parse_shape(edge.get("shape"))))
    live_shapes = require_list(stage.get("live"), "live", MOST_ENTRIES)
    return StageFacts(tuple(players), tuple(reads), tuple(map(_parse_shape, live_shapes)))


def parse_watched_images(content: Any) -> dict[int, WatchedImage]:
    """Parse the content of watched.json: images by their index in the training split."""
    document = require_mapping(content, "watched.json")
    _require(document.get("format") == 1, "watched.json's format", "1")
    images: dict[int, WatchedImage] = {}
    for entry in require_list(document.get("images"), "images", MOST_IMAGES):
        image = require_mapping(entry, "an image")
        label = require_integer(image.get("label"), "a label")
        index = require_integer(image.get("index"), "an image's index")
        images[index] = _parse_image(label, image.get("png"))
    return images


def _parse_image(label: int, png: Any) -> WatchedImage:
    short = isinstance(png, str) and len(png) <= LARGEST_PNG
    _require(short, "png", "a small PNG file in base64")
    try:
        header = base64.b64decode(png, validate=True)[:24]
    except (ValueError, binascii.Error) as error:
        raise ReportError("png must be a small PNG file in base64.") from error
    _require(header.startswith(PNG_HEADER) and len(header) == 24, "png", "a PNG file")
    # The header block begins with width and height as big-endian 32-bit numbers.
    width, height = struct.unpack(">II", header[16:24])
    small = 0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE
    _require(small, "an image", f"at most {LONGEST_SIDE} pixels wide and high")
    return WatchedImage(label, png, width, height)
