"""A comparison on disk: one JSON document, valid at every moment of the run."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.records import EpochRecord

FORMAT = 1
"""Raised by one whenever the meaning of a field of the document changes."""

STATUSES = ("running", "finished", "interrupted")

PACKAGES = ("gtddp-jax", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")
"""Packages whose versions are kept with the results."""


def environment() -> dict[str, str]:
    """What the results may depend on beside the experiment: versions and device."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "device": jax.devices()[0].device_kind,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # run from a source tree


def document(
    experiment: Experiment,
    records: Sequence[EpochRecord],
    compile_seconds: dict[str, float],
    status: str,
) -> dict[str, Any]:
    """Describes a comparison as plain JSON values.

    Args:
        experiment: What is compared.
        records: The epochs so far, of every method and seed.
        compile_seconds: Compilation time of every method so far, by the method's name.
        status: One of ``STATUSES``.

    Raises:
        ValueError: If ``status`` is not in ``STATUSES``.
    """
    if status not in STATUSES:
        raise ValueError(f"Invalid status: {status!r}. Supported: {', '.join(STATUSES)}.")
    return _finite(
        {
            "format": FORMAT,
            "status": status,
            "experiment": asdict(experiment),
            "environment": environment(),
            "compile_seconds": compile_seconds,
            "epochs": [asdict(record) for record in records],
        }
    )


def _finite(value: Any) -> Any:
    """Replaces numbers that JSON cannot write by strings that ``float`` reads: "nan", "inf"."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` as JSON; a reader sees the old file or the new one, never a part.

    Raises:
        OSError: If the folder cannot be written.
    """
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
