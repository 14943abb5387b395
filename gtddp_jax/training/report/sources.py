"""Reading a run's files: none outside of its folder, none larger than it may be."""

import json
import stat
import unicodedata
from pathlib import Path
from typing import Any

MIB = 2**20


class ReportError(Exception):
    """A run, or a part of one, cannot be reported; its text is one line."""


class Absent(ReportError):
    """The file is not there."""


def read_text(folder: Path, name: str, limit: int) -> str:
    """Reads a file of a run's folder.

    Args:
        folder: The folder.
        name: The file's name in it.
        limit: Largest size in bytes.

    Raises:
        Absent: If there is no such file.
        ReportError: If it is a link or no ordinary file, is too large, or cannot be read.
    """
    path = folder / name
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise ReportError(f"{name} is not an ordinary file; links are not followed.")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise Absent(f"{name} is not there.") from error
    except OSError as error:
        raise ReportError(f"{name} cannot be read: {error.strerror}.") from error
    if len(content) > limit:
        raise ReportError(f"{name} is larger than {limit // MIB} MiB, more than any run leaves.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReportError(f"{name} is not text.") from error


def read_json(folder: Path, name: str, limit: int) -> Any:
    """Reads a JSON file of a run's folder.

    Raises:
        ReportError: As `read_text`, or if it is not JSON.
    """
    try:
        return json.loads(read_text(folder, name, limit))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{name} is not JSON.") from error


def plain(text: str, limit: int = 200) -> str:
    r"""Text for a terminal and a page: no control characters, no more than ``limit`` characters.

    Characters that steer a terminal or turn the direction of writing become U+FFFD.

    >>> plain("a\x1b[31mb") == "a\ufffd[31mb"
    True
    """
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join("\ufffd" if unicodedata.category(c)[0] == "C" else c for c in shown)
