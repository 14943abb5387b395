"""Logs: what is written, and what is dropped when a run resumes from a checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtddp_lab.training.logs import RunLogs, open_logs
from gtddp_lab.training.records import EpochRecord, TrainingUnit, TrainProgress, UnitResumed
from gtddp_lab.training.totals import EpochFigures

UNIT = TrainingUnit("gtddp-adam", (3, 5))
REPORT = {"sample_weight_min": 0.5, "feedback_ratio": [0.25, float("nan")]}


def steps(step: int, unit: TrainingUnit = UNIT) -> TrainProgress:
    figures = tuple(EpochFigures(seed + step / 100, REPORT) for seed in unit.seeds)
    return TrainProgress(unit, step, 20, (step - 1) // 10 + 1, 2.0, 640, figures)


def epoch(number: int, seed: int, method: str = "gtddp-adam") -> EpochRecord:
    return EpochRecord(method, seed, number, 0.5, 0.6, 0.7, 0.9, 1.5, REPORT)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def write(folder: Path, *events: Any) -> None:
    with open_logs(folder) as logs:
        for event in events:
            logs.write_event(event)


def test_a_line_for_each_seed(tmp_path: Path) -> None:
    write(tmp_path, steps(5), epoch(1, 3))
    first, second, third = lines(tmp_path)
    assert (first["kind"], first["seed"], first["step"], first["epoch"]) == ("steps", 3, 5, 1)
    assert first["images_per_second"] == 320
    assert first["report"]["feedback_ratio"] == [0.25, "nan"]
    assert second["seed"] == 5
    assert (third["kind"], third["epoch"], third["validation_accuracy"]) == ("epoch", 1, 0.9)


def test_event_files_hold_the_figures(tmp_path: Path) -> None:
    """Reads the files back with the protocol buffers of tensorboardX."""
    write(tmp_path, steps(10), epoch(1, 3), epoch(1, 5))
    found = scalars(tmp_path / "tensorboard" / "gtddp-adam-seed3")
    np.testing.assert_allclose(found["train/average_loss", 10], 3.1, rtol=1e-6)
    assert found["train/report/sample_weight_min", 10] == 0.5
    assert found["train/report/feedback_ratio/0", 10] == 0.25
    np.testing.assert_allclose(found["epoch/validation_accuracy", 10], 0.9, rtol=1e-6)
    assert scalars(tmp_path / "tensorboard" / "gtddp-adam-seed5")


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """All scalars in a folder's event files; a record is length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]  # generated

    found: dict[tuple[str, int], float] = {}
    for file in sorted(folder.iterdir()):
        data, place = file.read_bytes(), 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event files say so at the latest when their buffers are full; nothing waits."""
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full.open("wb"))
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path, *map(steps, range(1, 1000)))


def test_entries_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    other = TrainingUnit("adam", (3, 5))
    write(
        tmp_path,
        steps(5, other),
        steps(15, other),
        epoch(1, 3, "adam"),
        *(steps(5), steps(10), epoch(1, 3), epoch(1, 5), steps(15), steps(20)),
        *(epoch(2, 3), epoch(2, 5)),
    )
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')  # killed while it wrote
    write(tmp_path, UnitResumed(UNIT, 12, (epoch(1, 3), epoch(1, 5))), steps(15))
    kept = [(r["method"], r["kind"], r["seed"], r.get("step", r["epoch"])) for r in lines(tmp_path)]
    assert kept == [
        *(("adam", "steps", seed, step) for step in (5, 15) for seed in (3, 5)),
        ("adam", "epoch", 3, 1),
        *(("gtddp-adam", "steps", seed, step) for step in (5, 10) for seed in (3, 5)),
        *(("gtddp-adam", "epoch", seed, 1) for seed in (3, 5)),
        *(("gtddp-adam", "steps", seed, 15) for seed in (3, 5)),
    ]


def test_event_files_mark_where_to_purge(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]  # generated

    write(tmp_path, UnitResumed(UNIT, 12, ()))
    (file,) = (tmp_path / "tensorboard" / "gtddp-adam-seed3").iterdir()
    data, place, restarts = file.read_bytes(), 0, []
    while place < len(data):
        length = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
        if event.session_log.status == SessionLog.START:
            restarts.append(event.step)
    assert restarts == [13]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        RunLogs(tmp_path / "file")
