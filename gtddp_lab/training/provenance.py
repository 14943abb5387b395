"""Provenance of results: versions, devices, and the state of the source tree."""

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
"""Packages whose versions are stored with the results."""

GIT_TIMEOUT_S = 10


def collect_provenance() -> dict[str, Any]:
    """Everything besides the configuration that results may depend on, at one start of a run."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {package: _package_version(package) for package in PACKAGES},
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "git": git_state(Path.cwd()),
    }


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # also if it is imported from a source tree


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit and the local changes of the git repository that contains a folder.

    Returns:
        ``commit`` (a hash; None before the first commit) and ``changed`` (paths that differ from
        the commit or are untracked). None outside a repository and without git.
    """
    # The porcelain format is stable across versions and settings of git.
    status = _run_git(folder, "status", "--porcelain", "--untracked-files=normal")
    if status is None:
        return None
    commit = _run_git(folder, "rev-parse", "HEAD")
    return {
        "commit": commit.strip() if commit else None,
        # Each line is two status letters, a space and the path.
        "changed": [line[3:] for line in status.splitlines()],
    }


def _run_git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command; None if it fails."""
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
