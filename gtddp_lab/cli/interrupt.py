"""Ctrl-C as a request to stop: the first one is noted, the second one interrupts at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_NOTICE = b"\nStopping after the current steps. Press Ctrl-C again to stop at once.\n"


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Notes SIGINT instead of raising; yields a function that tells whether it has arrived.

    SIGTERM, with which cluster schedulers announce the end of a job, is handled in the same way.
    Must be entered in the main thread, like every change of signal handlers.
    """
    interrupted = False

    def note_signal(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the next one interrupts
        # Not print: the signal may arrive inside print, which is not reentrant.
        os.write(2, STOP_NOTICE)

    old_handlers = {
        number: signal.signal(number, note_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: interrupted
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
