"""Runs of several processes in which one is lost: the others say so and end.

JAX on its own would wait. A dead process does not answer, and leaving in good order waits for all.
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
"""Exit code of a process that stops because another one did: "try again" (EX_TEMPFAIL)."""


@contextmanager
def session(timeout: float = 600) -> Iterator[Callable[[], None]]:
    """Runs a part of the program that needs all processes; ends this one when another is lost.

    This process says what happened on stderr and leaves at once, with ``EXIT_PEER_LOST``; what it
    had saved stays. The whole run may then be started again, with as many processes as are left,
    and goes on from its newest checkpoint.

    Args:
        timeout: Seconds without progress after which another process is taken to hang; longer than
            the longest time between two calls of the function below, compilation included.

    Yields:
        A function to be called at every sign of progress.
    """
    if jax.process_count() == 1:
        yield lambda: None
        return
    place = f"process {jax.process_index()} of {jax.process_count()} stops"
    advice = (
        "Start the run again to go on from its newest checkpoint; any number of processes will do."
    )
    hangs = f"no progress for {timeout:g} s, another process of this run hangs"
    watch = Watch(timeout, f"{place}: {hangs}. {advice}")
    try:
        yield watch.beat
    except Exception as error:
        if not is_lost_peer(error):
            raise
        _leave(f"{place}: another process of this run is gone ({first_line(error)}). {advice}")
    finally:
        watch.stop()


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether a sum over devices failed because another process is gone."""
    return (
        isinstance(error, Exception)
        and jax.process_count() > 1
        and any(word in str(error) for word in LOST_PEER_WORDS)
    )


LOST_PEER_WORDS = ("Gloo", "NCCL", "oordination service", "Connection reset", "Socket closed")
"""What XLA's messages say when a sum over devices fails because a process is gone; XLA has no
exception of its own for it."""


class Watch:
    """Ends the process if it is not told of progress in time; its thread waits beside the run."""

    def __init__(self, timeout: float, message: str) -> None:
        """Starts to wait.

        Args:
            timeout: Seconds without progress.
            message: What is said at the end.
        """
        self._timeout, self._message = timeout, message
        self._last = time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="progress watch", daemon=True).start()

    def beat(self) -> None:
        """Notes progress."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """Ends the watch, not the process."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(max(0.0, self._last + self._timeout - time.monotonic())):
            if time.monotonic() - self._last >= self._timeout:
                _leave(self._message)


def _leave(message: str) -> NoReturn:
    """Leaves at once: an orderly end would wait for the process that is gone."""
    print(f"gtddp: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(EXIT_PEER_LOST)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
