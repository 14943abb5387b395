"""Entry point of ``gtddp``: parses the command line, runs the command, returns an exit code."""

import importlib.metadata
import importlib.util
import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from gtddp_lab.cli.choices import table_names
from gtddp_lab.cli.interrupt import CONTINUATION, EXIT_INTERRUPTED, exit_at_interrupts
from gtddp_lab.core.printing import printable_text

EXIT_FAILED = 1
EXIT_USAGE = 2

LONGEST_MESSAGE = 4000
"""Characters of an error message that are shown."""

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
"""Modules that the command needs besides the library: the extra ``train``."""

INSTALL_HINT = "Run in the project's folder: pip install -e '.[train]'"
"""How to install the extra, as in the README: the package is not on any index."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``gtddp``.

    Args:
        arguments: The command line without the program's name; by default that of the process.

    Returns:
        The exit code: 0 on success, 1 if a run failed, 2 if the command line is wrong, 130 after
        Ctrl-C; errors are printed as one line. If one of several processes is lost, the others
        exit with 75 (``peers.EXIT_PEER_LOST``) without returning.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be text; printing them must not fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    typed = sys.argv[1:] if arguments is None else arguments
    if list(typed) == ["--version"]:
        print(f"gtddp {importlib.metadata.version('gtddp-jax')}")
        return 0
    CONTINUATION.command = shlex.join(["gtddp", *typed])
    if arguments is None:
        exit_at_interrupts()
    try:
        code = _run_command(typed)
    except KeyboardInterrupt:  # where the handler is not ours
        code = _print_error(CONTINUATION.interrupt_message(), EXIT_INTERRUPTED)
    if code == EXIT_INTERRUPTED and arguments is None:
        # Threads of XLA may still run; taking the interpreter down around them can crash.
        _exit_now(code)
    if code and "jax" in sys.modules:  # JAX is not imported for errors of usage
        _exit_if_distributed(code)
    return code


def _help_without_extra(arguments: Sequence[str], missing: Sequence[str]) -> int:
    """Says what to install; answers ``--help`` as far as that is possible."""
    message = f"{', '.join(missing)} not found. {INSTALL_HINT}"
    if "--help" not in arguments and "-h" not in arguments:
        return _print_error(message, EXIT_USAGE)
    commands = ",".join(table_names("gtddp_lab.cli.parse", "COMMAND_OPTIONS"))
    print(f"usage: gtddp [-h] [--version] {{{commands}}}\n\n{message}")
    return 0


def _run_command(arguments: Sequence[str]) -> int:
    # Checked before any other import of this package, each of which needs the extra.
    missing = [name for name in EXTRA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return _help_without_extra(arguments, missing)
    from gtddp_lab.cli.cli_errors import RunError, UsageError
    from gtddp_lab.cli.parse import parse_command_line

    try:
        return _dispatch_command(parse_command_line(arguments))
    except UsageError as error:
        return _print_error(str(error), EXIT_USAGE)
    except RunError as error:
        return _print_error(str(error), EXIT_FAILED)


def _dispatch_command(command_options: object) -> int:
    """Runs the command of the options; imports only what that command needs."""
    from gtddp_lab.cli import options

    match command_options:  # by class: each command has its own options
        case options.TrainOptions():
            from gtddp_lab.cli.train_command import train_methods

            return EXIT_INTERRUPTED if train_methods(command_options).interrupted else 0
        case options.EvalOptions():
            from gtddp_lab.cli.evaluate_command import evaluate_run

            evaluate_run(command_options)
        case options.PlotOptions():
            from gtddp_lab.cli.plot_command import plot_runs

            plot_runs(command_options)
        case options.ReportOptions():
            from gtddp_lab.cli.report_command import report_runs

            report_runs(command_options)
        case options.ReproduceOptions():
            from gtddp_lab.cli.reproduce_command import reproduce_studies

            reproduce_studies(command_options)
        case options.DataOptions():
            from gtddp_lab.cli.data_command import prepare_data_set

            prepare_data_set(command_options)
        case _:
            raise AssertionError(f"no command for {command_options!r}")
    return 0


def _exit_if_distributed(code: int) -> None:
    """Exits a failed process of several at once: an orderly exit would wait for the others."""
    import jax

    if jax.distributed.is_initialized():
        _exit_now(code)


def _exit_now(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _print_error(message: str, code: int) -> int:
    # Names of files can hold sequences that steer a terminal.
    print(f"gtddp: {printable_text(message, LONGEST_MESSAGE)}", file=sys.stderr)
    return code
