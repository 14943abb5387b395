"""Atomic writes, and reads that do not trust the file."""

import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

MIB = 2**20

MOST_DIGITS = 30
"""Longest whole number in a JSON file; no count is as large."""


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file that takes the place of ``path`` at the end, unless an exception is raised.

    A reader sees either the old content or the new, never a part.

    Raises:
        OSError: If the file cannot be written; the old file is unchanged.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _unfinished.add(part)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            # Without fsync the rename could reach the disk before the content does.
            os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(part)


_unfinished: set[Path] = set()
"""New files that have not taken their places yet."""


def remove_unfinished_files() -> None:
    """Removes what `replacing_file` has begun; for a process that ends in the middle of it."""
    for part in tuple(_unfinished):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file; a reader sees either the old content or the new, never a part.

    Raises:
        OSError: If the file cannot be written; the old file is unchanged.
    """
    with replacing_file(path) as file:
        file.write(text.encode("utf-8"))


def open_ordinary_file(path: Path) -> BinaryIO:
    """Opens a file from an untrusted source for reading.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is a folder, a device or a named pipe; the message is one line.
    """
    # O_NONBLOCK: opening a named pipe would otherwise wait for a writer, for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("it is not an ordinary file")
    return os.fdopen(handle, "rb")


def read_text_file(path: Path, max_bytes: int) -> str:
    """Reads a text file from an untrusted source.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a regular file, too large, or not UTF-8; the message is one line.
    """
    with open_ordinary_file(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes // MIB} MiB, more than any run writes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error


def parse_json(text: str) -> Any:
    """Parses standard JSON: without NaN and infinities, and with limited nesting.

    Raises:
        ValueError: If the text is not standard JSON; the message is one line.
    """

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    def parse_finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text:.30} is beyond the numbers of a computer")
        return number

    def parse_short(text: str) -> int:
        if len(text) > MOST_DIGITS:
            raise ValueError(f"a whole number has {len(text)} digits, more than {MOST_DIGITS}")
        return int(text)

    try:
        return json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=parse_finite,
            parse_int=parse_short,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
