"""Ctrl-C as a request: the first one is noted, the second one interrupts at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NOTICE = b"\nStopping after the running epoch. Ctrl-C again stops at once.\n"


@contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """Notes SIGINT instead of raising; yields a function that says whether it has come.

    To be entered in the main thread, as signal handlers are.
    """
    noted = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, NOTICE)  # print could meet itself here: the handler runs anywhere

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)
