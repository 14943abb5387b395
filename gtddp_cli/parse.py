"""Reading the command line: options, or one clear line about what is wrong with it."""

import contextlib
import io
from collections.abc import Sequence
from itertools import dropwhile, takewhile
from typing import Any

import tyro

from gtddp_cli.options import Data, Train

COMMANDS: dict[str, Any] = {"train": Train, "data": Data}
"""Options by command."""

DESCRIPTION = "GT-DDP: game-theoretic differential dynamic programming for residual networks."


class UsageError(Exception):
    """The command line asks for something that cannot be done; its text is one line."""


def parse(arguments: Sequence[str]) -> Train | Data:
    """Reads ``arguments``, without the program's name.

    Raises:
        UsageError: If they cannot be read.
        SystemExit: With code 0, after printing the help that was asked for.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="gtddp",
                description=DESCRIPTION,
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
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
