"""``metrics.jsonl`` of a killed run or of a stranger: damaged lines are set aside."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gtddp_lab.training import json_lines
from gtddp_lab.training.json_lines import DAMAGED_NAME, JsonLinesLog, LogError
from gtddp_lab.training.logs import RunLogs, open_logs
from gtddp_lab.training.records import EpochRecord, TrainingUnit, TrainProgress, UnitResumed
from gtddp_lab.training.totals import EpochFigures

FIRST = TrainingUnit("adam", (0,))
SECOND = TrainingUnit("gtddp-adam", (0,))


def steps(step: int, unit: TrainingUnit = FIRST) -> TrainProgress:
    return TrainProgress(unit, step, 20, (step - 1) // 10 + 1, 2.0, 640, (EpochFigures(1.0, {}),))


def epoch(number: int, unit: TrainingUnit = FIRST) -> EpochRecord:
    return EpochRecord(unit.method, 0, number, 0.5, 0.6, 0.7, 0.9, 1.5, {})


def write(folder: Path, *events: Any) -> tuple[str, ...]:
    with open_logs(folder) as logs:
        for event in events:
            logs.write_event(event)
        return logs.notes


def entries(folder: Path) -> list[tuple[str, str, int]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["method"], row["kind"], row.get("step", row["epoch"])) for row in rows]


GOOD = b'{"kind": "steps", "method": "adam", "seed": 0, "epoch": 1, "step": 5}\n'
OTHER = GOOD.replace(b'"adam"', b'"sgd"')
NOT_ENTRIES = {
    b"5\n": "it is not a JSON object",
    b"\xff\xfe\n": "it is not text",
    b"\n": "it is not JSON",
    b"{}\n": "its kind is None, not 'steps' or 'epoch'",
    GOOD[:30] + GOOD: "it is not JSON",  # a new process wrote on an incomplete line
    GOOD[:30]: "it is cut off",
    GOOD.replace(b'"seed": 0', b'"seed": true'): "its seed is bool, int is needed",
    GOOD.replace(b', "step": 5', b""): "its step is NoneType, int is needed",
    GOOD.replace(b"5}", b"5, " + b'"x": NaN}'): "NaN is no JSON number",
    100_000 * b"[" + b"\n": "it is nested too deeply",
    b'{"x": "' + 2**20 * b"x" + b'"}\n': "it is longer than 1048576 bytes",
}


@pytest.mark.parametrize("line", NOT_ENTRIES, ids=lambda line: repr(line[:12]))
def test_a_line_that_is_no_entry_is_set_aside(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(OTHER + GOOD + line)
    (note,) = write(tmp_path, UnitResumed(FIRST, 5, ()), steps(10))
    assert note == (
        f"{tmp_path}/metrics.jsonl: line 3 is damaged ({NOT_ENTRIES[line]}); moved to "
        "metrics.damaged, and the run goes on."
    )
    kept = (tmp_path / "metrics.jsonl").read_bytes()
    assert kept.startswith(OTHER + GOOD)
    assert entries(tmp_path)[2:] == [("adam", "steps", 10)]
    aside = (tmp_path / DAMAGED_NAME).read_bytes()
    assert aside == line[: 2**20].rstrip(b"\n") + b"\n"
    assert write(tmp_path) == ()  # repaired for good


def test_many_damaged_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(GOOD + 8 * b"x\n" + GOOD)
    (note,) = write(tmp_path)
    assert "lines 2, 3, 4, 5, 6 and 3 more are damaged (it is not JSON)" in note
    assert (tmp_path / "metrics.jsonl").read_bytes() == GOOD + GOOD
    assert (tmp_path / DAMAGED_NAME).read_bytes() == 8 * b"x\n"


def test_a_missing_line_break_alone_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(GOOD + GOOD.rstrip())
    assert write(tmp_path, steps(7, SECOND)) == ()
    assert entries(tmp_path) == [("adam", "steps", 5)] * 2 + [("gtddp-adam", "steps", 7)]
    assert not (tmp_path / DAMAGED_NAME).exists()


def test_a_run_killed_before_its_first_checkpoint_leaves_no_duplicates(tmp_path: Path) -> None:
    """The second unit has no checkpoint, so it starts again at its first step."""
    write(tmp_path, steps(5), epoch(1), steps(5, SECOND), steps(10, SECOND), epoch(1, SECOND))
    write(
        tmp_path,
        *(UnitResumed(FIRST, 10, (epoch(1),)), steps(15)),
        *(steps(5, SECOND), steps(10, SECOND), epoch(1, SECOND), steps(15, SECOND)),
    )
    assert entries(tmp_path) == [
        *(("adam", "steps", 5), ("adam", "epoch", 1), ("adam", "steps", 15)),
        *(("gtddp-adam", "steps", 5), ("gtddp-adam", "steps", 10), ("gtddp-adam", "epoch", 1)),
        ("gtddp-adam", "steps", 15),
    ]


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    """A sparse file takes no space on disk, but reading it would take days."""
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(LogError, match=r"has more than 4096 MiB\. Move this log away to resume"):
        RunLogs(tmp_path)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(LogError, match=r"metrics\.jsonl: it is not an ordinary file\."):
        JsonLinesLog(tmp_path / "metrics.jsonl")


def test_memory_does_not_grow_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Watched:
        """Notes how much is requested at a time."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> "Watched":
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()

        def fileno(self) -> int:
            return self._file.fileno()

        def readline(self, limit: int) -> bytes:
            nonlocal largest
            line = self._file.readline(limit)
            largest = max(largest, len(line))
            return line

    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(2**24)
    opened = json_lines.open_ordinary_file
    monkeypatch.setattr(json_lines, "open_ordinary_file", lambda path: Watched(opened(path)))
    assert len(write(tmp_path)) == 1
    assert largest == 2**20
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
