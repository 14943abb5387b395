"""What all tests share.

Precision is a matter of each folder: exactness is shown in float64, training in float32 as users
have it. Nothing here touches jax, so that neither choice leaks into the other or into children.
"""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from tests.compiler_flags import COMPILER_FLAGS

COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "d" / "compiled"
"""Compiled programs, which the workers share and the next run finds; `--cache-clear` drops them.

Most of the time of the tests is compilation. JAX reads these variables when it is imported.
"""

CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(COMPILED),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
for variable, setting in (CACHE | {"XLA_FLAGS": COMPILER_FLAGS}).items():
    os.environ.setdefault(variable, setting)

# Traced programs are many small objects, which live long.
gc.set_threshold(20_000, 50, 100)

COMPILED_LIMIT = 2**30
"""Size of the compiled programs in bytes beyond which a run starts without them."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep the compiled programs from growing without bound."""
    if hasattr(session.config, "workerinput") or not COMPILED.exists():
        return
    if sum(entry.stat().st_size for entry in COMPILED.iterdir()) > COMPILED_LIMIT:
        shutil.rmtree(COMPILED)


class RunPython(Protocol):
    def __call__(
        self, *arguments: str, devices: int = 1, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]: ...


def child_environment(devices: int = 1) -> Mapping[str, str]:
    """The environment of a child process with ``devices`` virtual CPU devices.

    NPROC sizes XLA's thread pool. With fewer threads than twice the devices, a collective can wait
    for a device that has no thread to run on, until XLA aborts the process.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_", "PYTEST_"))
    }
    return (
        kept
        | {variable: os.environ[variable] for variable in CACHE}
        | {
            "JAX_PLATFORMS": "cpu",
            "NPROC": str(max(2 * devices, os.cpu_count() or 1)),
            "XLA_FLAGS": f"{COMPILER_FLAGS} --xla_force_host_platform_device_count={devices}",
        }
    )


@pytest.fixture
def run_python() -> RunPython:
    """Runs ``python *arguments`` in a process of its own; it is killed at the timeout (seconds)."""

    def run(
        *arguments: str, devices: int = 1, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=child_environment(devices),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
