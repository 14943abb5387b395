"""The entry point: read the command line, run the command, turn its end into an exit code."""

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

EXTRA_MODULES = ("tyro", "rich", "sklearn", "matplotlib")
"""What the command needs beside the library: the extra ``train``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``gtddp``.

    Args:
        arguments: The command line without the program's name; the process's own by default.

    Returns:
        The exit code: 0, 2 after a line about a wrong command line, 130 after Ctrl-C.
    """
    missing = [name for name in EXTRA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return _usage(f"{', '.join(missing)} not found. Run: pip install 'gtddp-jax[train]'")
    from gtddp_cli.parse import UsageError, parse

    try:
        return _run(parse(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        return _usage(str(error))
    except KeyboardInterrupt:
        print("gtddp: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(options: Any) -> int:
    """Runs the command that the options belong to; only then is what it needs imported."""
    from gtddp_cli.options import Data

    if isinstance(options, Data):
        from gtddp_cli.data import data

        data(options)
        return 0
    from gtddp_cli.train import train

    return EXIT_INTERRUPTED if train(options).interrupted else 0


def _usage(message: str) -> int:
    print(f"gtddp: {message}", file=sys.stderr)
    return EXIT_USAGE
