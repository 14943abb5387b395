"""The entry point: read the command line, run the command, turn its end into an exit code."""

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

EXTRA_MODULES = (
    "tyro",
    "rich",
    "sklearn",
    "matplotlib",
    "orbax",
    "tensorboardX",
    "yaml",
    "jinja2",
    "PIL",
)
"""What the command needs beside the library: the extra ``train``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``gtddp``.

    Args:
        arguments: The command line without the program's name; the process's own by default.

    Returns:
        The exit code: 0, 1 after a line about why a run cannot go on, 2 after a line about a wrong
        command line, 130 after Ctrl-C. One of several processes that loses another one ends with
        75 (``peers.EXIT_PEER_LOST``) and does not return.
    """
    missing = [name for name in EXTRA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        message = f"{', '.join(missing)} not found. Run: pip install 'gtddp-jax[train]'"
        return _told(message, EXIT_USAGE)
    code = _run(sys.argv[1:] if arguments is None else arguments)
    if code and "jax" in sys.modules:
        _leave_the_others(code)
    return code


def _run(arguments: Sequence[str]) -> int:
    from gtddp_cli.errors import RunError, UsageError
    from gtddp_cli.parse import parse

    try:
        options = parse(arguments)
        return RUN[type(options).__name__](options)
    except UsageError as error:
        return _told(str(error), EXIT_USAGE)
    except RunError as error:
        return _told(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return _told("interrupted", EXIT_INTERRUPTED)


def _leave_the_others(code: int) -> None:
    """Ends a process of several that has failed: an orderly end would wait for all of them."""
    import jax

    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _train(options: Any) -> int:
    from gtddp_cli.train import train

    return EXIT_INTERRUPTED if train(options).interrupted else 0


def _eval(options: Any) -> int:
    from gtddp_cli.evaluate import evaluate

    evaluate(options)
    return 0


def _plot(options: Any) -> int:
    from gtddp_cli.plot import plot

    plot(options)
    return 0


def _report(options: Any) -> int:
    from gtddp_cli.report import report

    report(options)
    return 0


def _reproduce(options: Any) -> int:
    from gtddp_cli.reproduce import reproduce

    reproduce(options)
    return 0


def _data(options: Any) -> int:
    from gtddp_cli.data import data

    data(options)
    return 0


RUN: dict[str, Callable[[Any], int]] = {
    "Train": _train,
    "Eval": _eval,
    "Plot": _plot,
    "Report": _report,
    "Reproduce": _reproduce,
    "Data": _data,
}
"""Commands by the class of their options; each imports what it needs only when it is run."""


def _told(message: str, code: int) -> int:
    print(f"gtddp: {message}", file=sys.stderr)
    return code
