"""A comparison on disk: one JSON document, valid at every moment of the run."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.files import MIB, parse_json, read_whole, write_whole
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.typed import check, made

FORMAT = 2
"""Raised by one whenever the meaning of a field of the document changes."""

LIMIT = 256 * MIB
"""Largest results file that is read; thirty seeds of a thousand epochs take a tenth of it."""

STATUSES = ("running", "finished", "interrupted", "failed")


class ResultsError(Exception):
    """A results file cannot be used; its text is one line."""


def document(
    experiment: Experiment,
    records: Sequence[EpochRecord],
    compile_seconds: dict[str, float],
    status: str,
    starts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Describes a comparison as plain JSON values.

    Args:
        experiment: What is compared.
        records: The epochs so far, of every method and seed.
        compile_seconds: Compilation time of every method so far, by the method's name.
        status: One of ``STATUSES``.
        starts: Where results come from, one entry for each start of the run.

    Raises:
        ValueError: If ``status`` is not in ``STATUSES``.
    """
    if status not in STATUSES:
        raise ValueError(f"Invalid status: {status!r}. Supported: {', '.join(STATUSES)}.")
    return finite(
        {
            "format": FORMAT,
            "status": status,
            "experiment": asdict(experiment),
            "starts": list(starts),
            "compile_seconds": compile_seconds,
            "epochs": [asdict(record) for record in records],
        }
    )


def finite(value: Any) -> Any:
    """Replaces numbers that JSON cannot write by strings that ``float`` reads: "nan", "inf"."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def unfinite(value: Any) -> Any:
    """The inverse of `finite`."""
    if isinstance(value, dict):
        return {key: unfinite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [unfinite(entry) for entry in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` as JSON; a reader sees the old file or the new one, never a part.

    Raises:
        OSError: If the folder cannot be written.
    """
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> tuple[Experiment, list[EpochRecord], dict[str, Any]]:
    """Reads what `write` has written.

    Returns:
        The experiment, its records, and the whole document.

    Raises:
        ResultsError: If there is no such file, or it is not of this format.
    """
    try:
        content = parse_json(read_whole(path, LIMIT))
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ResultsError(f"{path} is not a results file: {error}.") from error
    return parse(content, str(path))


def parse(content: Any, path: str) -> tuple[Experiment, list[EpochRecord], dict[str, Any]]:
    """As `read`, from JSON values; ``path`` is for messages."""
    try:
        content = unfinite(content)
        if content["format"] != FORMAT:
            raise ResultsError(
                f"{path} has format {content['format']}; this version reads format {FORMAT}."
            )
        told = dict(content["experiment"])
        told |= {name: tuple(told[name]) for name in ("games", "seeds")}
        told["settings"] = made(Settings, told["settings"])
        experiment = made(Experiment, told)
        check(dict[str, float], content["compile_seconds"], "compile_seconds")
        check(list[dict[str, Any]], content["starts"], "starts")
        check(str, content["status"], "status")
        records = [made(EpochRecord, record) for record in content["epochs"]]
        return experiment, records, content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsError(f"{path} is not a results file: {error}.") from error
