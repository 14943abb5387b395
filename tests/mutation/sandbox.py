"""A copy of the repository in which mutants run, each in a forked process."""

import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.mutation.selection import ROOT

COPIED = ("gtddp_jax", "gtddp_lab", "tests", "docs", "examples")
FILES = ("pyproject.toml", "README.md")


IGNORED = ("-W", "ignore::pytest.PytestAssertRewriteWarning", "-W", "ignore::RuntimeWarning:jax")
"""Warnings of modules that were imported before pytest started, and of `fork` after JAX."""


def import_libraries() -> None:
    """Import what all tests need, once: forked processes then start at once.

    No array may be made here. The threads of JAX's backend do not survive a fork.
    """
    import flax.linen
    import flax.nnx
    import jax
    import optax
    import pytest
    import scipy.optimize

    del flax, jax, optax, pytest, scipy


class Sandbox:
    """A copy of the repository.

    Args:
        folder: where the copy is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        skip = shutil.ignore_patterns("__pycache__", ".*")
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)

    def run(
        self, path: str, source: str, tests: tuple[str, ...], timeout: float
    ) -> tuple[str, str]:
        """Run tests on one changed file.

        Args:
            path: the file, relative to the repository.
            source: its text for this run.
            tests: arguments of pytest.
            timeout: in seconds; the process and its children are killed then.

        Returns:
            "passed", "failed" or "timeout", and the end of the output.
        """
        file, log = self.folder / path, self.folder / "log.txt"
        original = file.read_text(encoding="utf-8")
        file.write_text(source, encoding="utf-8")
        try:
            child = os.fork()
            if not child:
                self._test(tests, log)
            status = _wait(child, timeout)
        finally:
            file.write_text(original, encoding="utf-8")
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        if status is None:
            return "timeout", end
        return ("passed" if status == 0 else "failed"), end

    def _test(self, tests: tuple[str, ...], log: Path) -> None:
        """Run pytest in this process, which ends afterwards."""
        code = 70
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.folder)
            # Nothing of the repository itself may be imported.
            for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
                del sys.modules[name]
            outside = (str(ROOT), "")
            sys.path[:] = [str(self.folder), *(p for p in sys.path if p not in outside)]
            os.environ["PYTHONPATH"] = str(self.folder)
            import pytest

            code = int(
                pytest.main(["-x", "-q", "-m", "", "-p", "no:cacheprovider", *IGNORED, *tests])
            )
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _wait(child: int, timeout: float) -> int | None:
    """The exit status of a child, or None if it had to be killed with its group."""
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                child = 0
                return status
            time.sleep(0.1)
        return None
    finally:
        # Also where this process receives a signal to stop.
        if child:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
