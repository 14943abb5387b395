"""Provenance of results: versions, devices, and the state of the source code."""

import platform
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

from gtddp_lab.training.source_state import source_state

PACKAGES = (
    "gtddp-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "orbax-checkpoint",
    "scikit-learn",
    "tensorflow-datasets",
)
"""Packages whose versions are stored with the results."""


def collect_provenance() -> dict[str, Any]:
    """Everything besides the configuration that results may depend on, at one start of a run."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {package: _package_version(package) for package in PACKAGES},
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "source": source_state(),
    }


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # also if it is imported from a source tree
