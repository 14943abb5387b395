"""Reading the command line: options, or one clear line about what is wrong with it."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import fields
from itertools import dropwhile, takewhile
from typing import Any

import tyro

from gtddp_cli.config import as_arguments, read_config
from gtddp_cli.errors import UsageError
from gtddp_cli.options import WATCHING, Data, Eval, Plot, Report, Reproduce, Train

COMMANDS: dict[str, Any] = {
    "train": Train,
    "eval": Eval,
    "plot": Plot,
    "report": Report,
    "reproduce": Reproduce,
    "data": Data,
}
"""Options by command."""

DESCRIPTION = "GT-DDP: game-theoretic differential dynamic programming for residual networks."


def parse(arguments: Sequence[str]) -> Any:
    """Reads ``arguments``, without the program's name.

    Returns:
        The options of the command, an instance of its entry in ``COMMANDS``. Those of a
        configuration file stand where the command line says nothing else.

    Raises:
        UsageError: If they cannot be read.
        SystemExit: With code 0, after printing the help that was asked for.
    """
    options = _all_commands(arguments)
    if not isinstance(options, Train):
        return options
    if options.resume is not None:
        return _resumed(arguments, options)
    if options.config is not None:
        return _train(arguments, read_train(options.config))
    return options


def read_train(config: Any) -> Train:
    """The options that a configuration file holds.

    Raises:
        UsageError: If it cannot be read or has something that is no option.
    """
    values = read_config(config, [field.name for field in fields(Train)])
    try:
        return _train(["train", *as_arguments(values)], Train())
    except UsageError as error:
        raise UsageError(f"{config}: {error}") from error


def _resumed(arguments: Sequence[str], options: Train) -> Train:
    """The options of the run that goes on, with what may change as the command line has it."""
    assert options.resume is not None
    if options.config is not None:
        raise UsageError("--resume and --config exclude each other: a run has its own config.yaml.")
    config = options.resume / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{options.resume} is not the folder of a run: it has no config.yaml.")
    before = read_train(config)
    after = _train(arguments, before)
    names = [field.name for field in fields(Train) if field.name not in ("resume", *WATCHING)]
    for name in names:
        if getattr(before, name) != getattr(after, name):
            raise UsageError(
                f"--{name.replace('_', '-')} cannot change with --resume: the run has "
                f"{getattr(before, name)}. What may: "
                f"{', '.join('--' + other.replace('_', '-') for other in WATCHING)}."
            )
    return after


def _all_commands(arguments: Sequence[str]) -> Any:
    return _told(
        lambda: tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="gtddp",
            description=DESCRIPTION,
            args=list(arguments),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    )


def _train(arguments: Sequence[str], default: Train) -> Train:
    """Reads the rest of ``train ...``; what it does not say is as in ``default``."""
    return _told(
        lambda: tyro.cli(
            Train,
            prog="gtddp train",
            args=list(arguments[1:]),
            default=default,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    )


def _told(read: Any) -> Any:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return read()
    except SystemExit as exit:
        if exit.code == 0:
            raise
        raise UsageError(f"{one_line(complaint.getvalue())} See gtddp --help.") from None


def one_line(box: str) -> str:
    """Takes the sentence out of the box that tyro draws around it.

    The box has a title line, then the sentence, then further help below a rule or an empty line.
    """
    lines = [line.strip(" │") for line in box.splitlines()[1:]]
    return " ".join(takewhile(_is_text, dropwhile(lambda line: not _is_text(line), lines)))


def _is_text(line: str) -> bool:
    return bool(line.strip(" ─-╰╯"))
