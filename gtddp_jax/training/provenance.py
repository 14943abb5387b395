"""Where results come from: versions, device, and the state of the source tree."""

import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

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
"""Packages whose versions are kept with the results."""

GIT_TIMEOUT_S = 10


def provenance() -> dict[str, Any]:
    """What results may depend on beside the configuration, at one start of a run."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "git": git_state(Path.cwd()),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # or run from a source tree


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and changes of the repository that a folder is in.

    Returns:
        ``commit`` (a hash, None before the first commit) and ``changed`` (paths that differ from it
        or are not in it); None outside of a repository, or without git.
    """
    status = _git(folder, "status", "--porcelain", "--untracked-files=normal")
    if status is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    return {
        "commit": commit.strip() if commit else None,
        "changed": [line[3:] for line in status.splitlines()],
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
