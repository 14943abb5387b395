"""Detects lost processes: if one process of a run dies or hangs, the others report it and exit.

JAX by itself would wait forever: a dead process does not answer, and an orderly shutdown waits for
all processes.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import jax

EXIT_PEER_LOST = 75
"""Exit code of a process that stops because another one was lost: "try again" (EX_TEMPFAIL)."""

LOST_PEER_WORDS = ("Gloo", "NCCL", "oordination service", "Connection reset", "Socket closed")
"""Words in XLA's messages when a collective fails because a process is gone.

XLA raises no specific exception for this case.
"""


@contextmanager
def peer_session(timeout: float = 600) -> Iterator[Callable[[], None]]:
    """Runs code that needs all processes; exits this process if another one is lost.

    In that case the process prints the reason to stderr and exits at once with ``EXIT_PEER_LOST``;
    checkpoints that are already written stay. The run can then be started again, with any number
    of processes, and resumes from its newest checkpoint.

    Args:
        timeout: Seconds without progress after which another process is assumed to hang. Must be
            longer than the longest time between two progress reports, compilation included.

    Yields:
        A function to call at every sign of progress.
    """
    # A single process has no peers; a watchdog would only limit how long a step may take.
    if jax.process_count() == 1:
        yield lambda: None
        return
    stops = f"process {jax.process_index()} of {jax.process_count()} stops"
    advice = (
        "Start the run again to resume from its newest checkpoint; any number of processes will do."
    )
    hangs = f"no progress for {timeout:g} s, another process of this run hangs"
    # A process that dies breaks the connection, which raises; one that hangs only stays silent.
    watchdog = ProgressWatchdog(timeout, f"{stops}: {hangs}. {advice}")
    try:
        yield watchdog.report_progress
    except Exception as error:
        if not is_lost_peer(error):
            raise
        _exit_now(f"{stops}: another process of this run is gone ({first_line(error)}). {advice}")
    finally:
        watchdog.cancel()


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether a collective operation failed because another process is gone."""
    return (
        isinstance(error, Exception)
        and jax.process_count() > 1
        and any(word in str(error) for word in LOST_PEER_WORDS)
    )


class ProgressWatchdog:
    """Exits the process unless progress is reported in time; waits in a thread of its own."""

    def __init__(self, timeout: float, message: str) -> None:
        """Starts the clock.

        Args:
            timeout: Seconds without progress.
            message: Printed before the process exits.
        """
        self._timeout, self._message = timeout, message
        self._last_progress = time.monotonic()
        self._cancelled = threading.Event()
        threading.Thread(target=self._wait_for_timeout, name="progress watch", daemon=True).start()

    def report_progress(self) -> None:
        """Restarts the clock."""
        self._last_progress = time.monotonic()

    def cancel(self) -> None:
        """Stops the watchdog; the process goes on."""
        self._cancelled.set()

    def _wait_for_timeout(self) -> None:
        # The deadline moves with every report, so it is computed anew after each wait.
        while not self._cancelled.wait(max(0.0, self._seconds_left())):
            if self._seconds_left() <= 0:
                _exit_now(self._message)

    def _seconds_left(self) -> float:
        return self._last_progress + self._timeout - time.monotonic()


def _exit_now(message: str) -> NoReturn:
    """Exits without cleanup, because an orderly exit would wait for the lost process."""
    print(f"gtddp: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(EXIT_PEER_LOST)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
