"""Ctrl-C as a request: the first one is noted, the second one interrupts at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NOTICE = b"\nStopping after the running steps. Ctrl-C again stops at once.\n"


@contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """Notes SIGINT instead of raising; yields a function that says whether it has come.

    SIGTERM, with which cluster schedulers announce the end, is noted likewise. To be entered in the
    main thread, as signal handlers are.
    """
    noted = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, NOTICE)  # print could meet itself here: the handler runs anywhere

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
