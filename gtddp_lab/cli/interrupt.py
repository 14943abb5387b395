"""Ctrl-C: a training run stops after its current steps, every other command at once.

Python raises ``KeyboardInterrupt`` wherever the main thread happens to be. JAX has callbacks that
the garbage collector runs; an exception in one of them is printed and forgotten, and the command
goes on. And taking the interpreter down while threads of XLA run can end in a crash. So the handler
of a process ends it itself: what a command writes is complete or absent at every moment.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gtddp_lab.core.files import remove_unfinished_files

EXIT_INTERRUPTED = 130

STOP_NOTICE = b"\nStopping after the current steps. Press Ctrl-C again to stop at once.\n"
SHOW_CURSOR = "\x1b[?25h"
"""Ends the hiding of a terminal's cursor, which progress bars begin."""


class Continuation:
    """The command that goes on after Ctrl-C.

    Attributes:
        command: As typed.
    """

    def __init__(self) -> None:
        """Knows no command yet."""
        self.command: str = "gtddp"

    def interrupt_message(self) -> str:
        """What is said after Ctrl-C."""
        return f"interrupted; what was finished is kept. To go on: {self.command}"


CONTINUATION = Continuation()
"""That of the running command; signals belong to the whole process, too."""


def exit_at_interrupts() -> None:
    """From now on the first Ctrl-C ends the process: with a message, and without cleaning up.

    A process that was started to ignore Ctrl-C, such as one in the background, still ignores it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_at_once)


def _exit_at_once(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cursor = SHOW_CURSOR if os.isatty(2) else ""
    message = f"{cursor}gtddp: {CONTINUATION.interrupt_message()}\n"
    with suppress(RuntimeError):  # the signal may arrive inside print, which is not reentrant
        sys.stdout.flush()
    with suppress(OSError):  # nobody may be listening
        os.write(2, message.encode("utf-8", "backslashreplace"))
    remove_unfinished_files()
    os._exit(EXIT_INTERRUPTED)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Notes SIGINT instead of raising; yields a function that tells whether it has arrived.

    SIGTERM, with which cluster schedulers announce the end of a job, is handled in the same way.
    The next SIGINT is handled as before. Must be entered in the main thread, like every change of
    signal handlers.
    """
    interrupted = False

    def note_signal(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        before = old_handlers[signal.SIGINT]
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
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
