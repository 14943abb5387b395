"""The log ``metrics.jsonl``: one JSON object per line, appended to while the run lasts.

A killed process leaves an incomplete line, and a run folder may come from a stranger. So an
existing file is read line by line, within limits, and what is not an entry is set aside.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gtddp_lab.core.files import MIB, open_ordinary_file, parse_json, replacing_file
from gtddp_lab.core.json_types import check_type
from gtddp_lab.training.records import TrainingUnit
from gtddp_lab.training.results import encode_nonfinite

LINE_LIMIT = MIB
"""Longest line that is read; the entry of a network with a hundred stages needs a hundredth."""

FILE_LIMIT = 4096 * MIB
"""Largest file that is read, line by line."""

DAMAGED_NAME = "metrics.damaged"
"""File for the lines that are no entries, at most ``LINE_LIMIT`` bytes of each."""

MOST_NAMED = 5
"""Damaged lines whose numbers are reported."""


class LogError(Exception):
    """The log of a run cannot be continued; the message is one line."""


class _Line(NamedTuple):
    """A line, its number from 1, and its entry, or the reason why it has none."""

    number: int
    content: bytes
    entry: dict[str, Any] | None
    reason: str


class JsonLinesLog:
    """A file with one JSON object per line, appended to and flushed at every event.

    Attributes:
        continues: Whether the file held entries when it was opened.
        notes: One sentence for everything that was repaired.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file for appending; sets damaged lines aside first.

        Raises:
            OSError: If it cannot be written.
            LogError: If it is not an ordinary file, or too large.
        """
        self._path = path
        self.notes: tuple[str, ...] = _repair(path) if os.path.lexists(path) else ()
        self._file = path.open("a", encoding="utf-8")
        self.continues: bool = self._file.tell() > 0

    def write_entry(self, entry: dict[str, Any]) -> None:
        """Appends a line."""
        self._file.write(json.dumps(encode_nonfinite(entry), allow_nan=False) + "\n")
        self._file.flush()

    def rewind(self, unit: TrainingUnit, step: int, epoch: int) -> None:
        """Drops the entries of a unit after a step, which the resumed run will write again."""
        self._file.close()
        # Rewrites the whole file, which holds the entries of all units.
        _rewrite(self._path, lambda entry: not _is_later(entry, unit, step, epoch))
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _is_later(entry: dict[str, Any], unit: TrainingUnit, step: int, epoch: int) -> bool:
    """Whether an entry belongs to the unit and to a time after the step."""
    if entry["method"] != unit.method or entry["seed"] not in unit.seeds:
        return False
    return entry["step"] > step if entry["kind"] == "steps" else entry["epoch"] > epoch


def _repair(path: Path) -> tuple[str, ...]:
    """Moves lines that are no entries to a file of their own; returns a sentence about them."""
    numbers: list[int] = []
    damaged, first_reason, complete = 0, "", True
    for line in _read_lines(path):
        complete = line.content.endswith(b"\n")
        if line.entry is None:
            damaged += 1
            first_reason = first_reason or line.reason
            numbers += [line.number] if len(numbers) < MOST_NAMED else []
    if not damaged:
        if not complete:
            _rewrite(path, lambda entry: True)  # only its last line break is missing
        return ()
    with path.with_name(DAMAGED_NAME).open("ab") as aside:
        _rewrite(path, lambda entry: True, aside)
    listed = ", ".join(map(str, numbers))
    more = f" and {damaged - len(numbers)} more" if damaged > len(numbers) else ""
    named = f"line {listed} is" if damaged == 1 else f"lines {listed}{more} are"
    return (
        f"{path}: {named} damaged ({first_reason}); moved to {DAMAGED_NAME}, and the run goes on.",
    )


def _rewrite(
    path: Path, is_kept: Callable[[dict[str, Any]], bool], aside: BinaryIO | None = None
) -> None:
    """Keeps some entries of a file; lines without an entry are written to ``aside``."""
    with replacing_file(path) as file:
        for line in _read_lines(path):
            if line.entry is None:
                if aside is not None:
                    aside.write(line.content.rstrip(b"\n") + b"\n")
            elif is_kept(line.entry):
                file.write(line.content.rstrip(b"\n") + b"\n")


def _read_lines(path: Path) -> Iterator[_Line]:
    """Reads a file line by line, never more than ``LINE_LIMIT`` bytes at a time."""
    try:
        file = open_ordinary_file(path)
    except ValueError as error:
        raise LogError(f"{path}: {error}.") from error
    with file:
        if os.fstat(file.fileno()).st_size > FILE_LIMIT:
            raise LogError(
                f"{path} has more than {FILE_LIMIT // MIB} MiB. Move this log away to resume the "
                "run; the results do not depend on it."
            )
        number = 0
        while content := file.readline(LINE_LIMIT):
            number += 1
            if len(content) < LINE_LIMIT or content.endswith(b"\n"):
                yield _parse_line(number, content)
                continue
            while (rest := file.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
                pass  # skips the rest of the line
            yield _Line(number, content + b"\n", None, f"it is longer than {LINE_LIMIT} bytes")


def _parse_line(number: int, content: bytes) -> _Line:
    try:
        entry = parse_json(content.decode("utf-8"))
        _check_entry(entry)
        return _Line(number, content, entry, "")
    except UnicodeDecodeError:
        reason = "it is not text"
    except json.JSONDecodeError:
        reason = "it is not JSON" if content.endswith(b"\n") else "it is cut off"
    except ValueError as error:
        reason = str(error)
    return _Line(number, content, None, reason)


def _check_entry(entry: Any) -> None:
    """Checks the fields by which entries are selected.

    Raises:
        ValueError: If one is missing or of another type; the message is one line.
    """
    if not isinstance(entry, dict):
        raise ValueError("it is not a JSON object")
    if entry.get("kind") not in ("steps", "epoch"):
        raise ValueError(f"its kind is {entry.get('kind')!r:.20}, not 'steps' or 'epoch'")
    check_type(str, entry.get("method"), "its method")
    for name in ("seed", "epoch", *(("step",) if entry["kind"] == "steps" else ())):
        check_type(int, entry.get(name), f"its {name}")
