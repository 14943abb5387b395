"""Files that are whole at every moment, and files that may come from anywhere."""

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Writes a file; a reader sees the old one or the new one, never a part.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with part.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


MIB = 2**20


def read_whole(path: Path, limit: int) -> str:
    """Reads a text file that may come from anywhere.

    Args:
        path: The file.
        limit: Largest size in bytes.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no ordinary file, too large, or not text; the text is one line.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not an ordinary file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit // MIB} MiB, more than any run leaves")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error


def parse_json(text: str) -> Any:
    """JSON as its standard has it: without NaN, and not nested without end.

    Raises:
        ValueError: If it is not; the text is one line.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
