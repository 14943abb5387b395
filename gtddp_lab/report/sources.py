"""Reading the files of a run: none outside of its folder, none larger than expected."""

import json
import stat
from pathlib import Path
from typing import Any

from gtddp_lab.core.files import MIB


class ReportError(Exception):
    """A run, or a part of it, cannot be reported. The message is one line."""


class MissingFileError(ReportError):
    """The file does not exist."""


def read_run_text(folder: Path, name: str, limit: int) -> str:
    """Read a text file of a run's folder.

    Args:
        folder: The folder.
        name: Name of the file in it.
        limit: Largest accepted size in bytes.

    Raises:
        MissingFileError: If there is no such file.
        ReportError: If it is a link or a special file, too large, or unreadable.
    """
    path = folder / name
    try:
        # lstat: a link could lead outside of the folder, and opening a FIFO would block.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ReportError(f"{name} is not an ordinary file; links are not followed.")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise MissingFileError(f"{name} is missing.") from error
    except OSError as error:
        raise ReportError(f"{name} cannot be read: {error.strerror}.") from error
    if len(content) > limit:
        raise ReportError(f"{name} is larger than {limit // MIB} MiB, more than any run writes.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReportError(f"{name} is not text.") from error


def read_run_json(folder: Path, name: str, limit: int) -> Any:
    """Read a JSON file of a run's folder.

    Raises:
        ReportError: As for `read_run_text`, and if the file is not JSON.
    """
    try:
        return json.loads(read_run_text(folder, name, limit))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{name} is not JSON.") from error
