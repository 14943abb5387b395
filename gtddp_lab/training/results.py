"""The results file of a comparison: one JSON document, valid at every moment of the run."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gtddp_lab.core.files import MIB, parse_json, read_text_file, write_atomically
from gtddp_lab.core.json_types import check_type, dataclass_from_json
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.settings import TrainSettings

RESULTS_FORMAT = 3
"""Version of the document; increased whenever the name or meaning of a field changes."""

RESULTS_LIMIT = 256 * MIB
"""Largest results file that is read; thirty seeds of a thousand epochs need a tenth of it."""

STATUSES = ("running", "finished", "interrupted", "failed")


class ResultsError(Exception):
    """A results file cannot be used; the message is one line."""


def results_document(
    experiment: Experiment,
    records: Sequence[EpochRecord],
    compile_seconds: dict[str, float],
    status: str,
    starts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Describes a comparison as plain JSON values.

    Args:
        experiment: The comparison.
        records: The epochs so far, of all methods and seeds.
        compile_seconds: Compilation time so far, by method name.
        status: One of ``STATUSES``.
        starts: Provenance and times, one entry for each start of the run.

    Raises:
        ValueError: If ``status`` is not in ``STATUSES``.
    """
    if status not in STATUSES:
        raise ValueError(f"Invalid status: {status!r}. Supported: {', '.join(STATUSES)}.")
    return encode_nonfinite(
        {
            "format": RESULTS_FORMAT,
            "status": status,
            "experiment": asdict(experiment),
            "starts": list(starts),
            "compile_seconds": compile_seconds,
            "epochs": [asdict(record) for record in records],
        }
    )


def encode_nonfinite(value: Any) -> Any:
    """Replaces numbers that JSON cannot represent by strings: "nan", "inf", "-inf"."""
    if isinstance(value, dict):
        return {key: encode_nonfinite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode_nonfinite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def decode_nonfinite(value: Any) -> Any:
    """The inverse of `encode_nonfinite`."""
    if isinstance(value, dict):
        return {key: decode_nonfinite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [decode_nonfinite(entry) for entry in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file; a reader sees either the old content or the new, never a part.

    Raises:
        OSError: If the folder cannot be written.
    """
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_results(path: Path) -> tuple[Experiment, list[EpochRecord], dict[str, Any]]:
    """Reads a results file.

    Returns:
        The experiment, its records, and the whole document.

    Raises:
        ResultsError: If the file does not exist or does not have this format.
    """
    try:
        content = parse_json(read_text_file(path, RESULTS_LIMIT))
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ResultsError(f"{path} is not a results file: {error}.") from error
    return parse_results(content, str(path))


def parse_results(content: Any, path: str) -> tuple[Experiment, list[EpochRecord], dict[str, Any]]:
    """Does the same as `read_results` for JSON values; ``path`` appears in error messages."""
    try:
        content = decode_nonfinite(content)
        if content["format"] != RESULTS_FORMAT:
            raise ResultsError(
                f"{path} has format {content['format']}; this version reads format "
                f"{RESULTS_FORMAT}."
            )
        fields = dict(content["experiment"])
        # JSON has lists only; these fields are tuples in the dataclass.
        fields |= {name: tuple(fields[name]) for name in ("games", "seeds")}
        fields["settings"] = dataclass_from_json(TrainSettings, fields["settings"])
        experiment = dataclass_from_json(Experiment, fields)
        check_type(dict[str, float], content["compile_seconds"], "compile_seconds")
        check_type(list[dict[str, Any]], content["starts"], "starts")
        check_type(str, content["status"], "status")
        records = [dataclass_from_json(EpochRecord, record) for record in content["epochs"]]
        return experiment, records, content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsError(f"{path} is not a results file: {error}.") from error
