"""Parses the command line into options, or into one clear line about what is wrong."""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import TypeVar

import tyro

from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.config import read_config, values_as_arguments
from gtddp_lab.cli.options import (
    CHANGEABLE_ON_RESUME,
    DataOptions,
    EvalOptions,
    PlotOptions,
    ReportOptions,
    ReproduceOptions,
    TrainOptions,
)

CommandOptions = (
    TrainOptions | EvalOptions | PlotOptions | ReportOptions | ReproduceOptions | DataOptions
)
"""The options of any command."""

COMMAND_OPTIONS: dict[str, type[CommandOptions]] = {
    "train": TrainOptions,
    "eval": EvalOptions,
    "plot": PlotOptions,
    "report": ReportOptions,
    "reproduce": ReproduceOptions,
    "data": DataOptions,
}
"""Option classes by command."""

DESCRIPTION = (
    "GT-DDP: game-theoretic differential dynamic programming for residual networks. "
    "gtddp --version prints the version."
)

Parsed = TypeVar("Parsed")


def parse_command_line(arguments: Sequence[str]) -> CommandOptions:
    """Parses the arguments, without the program's name.

    Returns:
        The options of the command, an instance of its class in ``COMMAND_OPTIONS``. Values of a
        configuration file fill in what the command line does not set.

    Raises:
        UsageError: If the command line is wrong.
        SystemExit: With code 0, after ``--help`` was printed.
    """
    # tyro calls an unknown command an unrecognized option and does not list the known ones.
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMAND_OPTIONS:
        raise UsageError(
            f"unknown command {arguments[0]!r}. Commands: {', '.join(COMMAND_OPTIONS)}. "
            "See gtddp --help."
        )
    # A first pass finds --resume and --config. The command line is then parsed again, with the
    # options of that file as defaults, so that it overrides them.
    options = _parse_any_command(arguments)
    if not isinstance(options, TrainOptions):
        return options
    if options.resume is not None:
        return _resumed_options(arguments, options, options.resume)
    if options.config is not None:
        return _parse_train(arguments, read_train_options(options.config))
    return options


def read_train_options(config: Path) -> TrainOptions:
    """Reads the options in a configuration file.

    Raises:
        UsageError: If the file cannot be read, or holds an unknown option or a wrong value.
    """
    values = read_config(config, [field.name for field in fields(TrainOptions)])
    try:
        return _parse_train(["train", *values_as_arguments(values)], TrainOptions())
    except UsageError as error:
        raise UsageError(f"{config}: {error}") from error


def _resumed_options(arguments: Sequence[str], options: TrainOptions, folder: Path) -> TrainOptions:
    """The options of the resumed run, with changes from the command line where they may change."""
    if options.config is not None:
        raise UsageError("--resume and --config exclude each other: a run has its own config.yaml.")
    config = folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{folder} is not the folder of a run: it has no config.yaml.")
    before = read_train_options(config)
    after = _parse_train(arguments, before)
    may_change = ("resume", *CHANGEABLE_ON_RESUME)
    for name in (field.name for field in fields(TrainOptions) if field.name not in may_change):
        if getattr(before, name) != getattr(after, name):
            raise UsageError(
                f"--{name.replace('_', '-')} cannot change with --resume: the run has "
                f"{getattr(before, name)}. These may change: "
                f"{', '.join('--' + other.replace('_', '-') for other in CHANGEABLE_ON_RESUME)}."
            )
    return after


def _parse_any_command(arguments: Sequence[str]) -> CommandOptions:
    return _with_usage_errors(
        lambda: tyro.extras.subcommand_cli_from_dict(
            COMMAND_OPTIONS,
            prog="gtddp",
            description=DESCRIPTION,
            args=list(arguments),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    )


def _parse_train(arguments: Sequence[str], default: TrainOptions) -> TrainOptions:
    """Parses the arguments of ``train``; options that they do not set are those of ``default``."""
    return _with_usage_errors(
        lambda: tyro.cli(
            TrainOptions,
            prog="gtddp train",
            args=list(arguments[1:]),
            default=default,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    )


def _with_usage_errors(parse: Callable[[], Parsed]) -> Parsed:
    """Turns the message that tyro prints before it exits into a `UsageError`."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return parse()
    except SystemExit as exit:
        if exit.code == 0:  # --help
            raise
        raise UsageError(f"{box_to_sentence(message.getvalue())} See gtddp --help.") from None


def box_to_sentence(box: str) -> str:
    """Extracts the message from the box that tyro draws around it.

    The box has a title line, then the message, then further help below a rule or an empty line.
    """
    lines = [line.strip(" │") for line in box.splitlines()[1:]]
    return " ".join(takewhile(_is_text, dropwhile(lambda line: not _is_text(line), lines)))


def _is_text(line: str) -> bool:
    return bool(line.strip(" ─-╰╯"))
