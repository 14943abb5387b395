"""Logs of a run while it goes: lines of JSON, and TensorBoard event files without TensorFlow."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gtddp_jax.training.files import write_whole
from gtddp_jax.training.records import EpochRecord, Event, Progress, Resumed, Unit
from gtddp_jax.training.results import finite


def rows(event: Event) -> list[dict[str, Any]]:
    """An event as flat entries for a log, one for each seed; none for `Resumed`.

    ``step`` counts from the beginning of the run. Entries between epochs have ``kind`` "steps" and
    tell of the running epoch so far, those after an epoch ``kind`` "epoch". Weights of watched
    images are in the results file alone.
    """
    if isinstance(event, EpochRecord):
        scores = asdict(event)
        del scores["weights"]
        return [{"kind": "epoch", **scores}]
    if isinstance(event, Resumed):
        return []
    speed = event.images / event.seconds if event.seconds > 0 else 0.0
    return [
        {
            "kind": "steps",
            "method": event.unit.method,
            "seed": seed,
            "step": event.step,
            "epoch": event.epoch,
            "average_loss": figures.loss,
            "images_per_second": speed,
            "report": figures.report,
        }
        for seed, figures in zip(event.unit.seeds, event.figures, strict=True)
    ]


class JsonLines:
    """A file with one JSON object a line; it is appended to and flushed at every event."""

    def __init__(self, path: Path) -> None:
        """Opens the file for appending.

        Raises:
            OSError: If it cannot be written.
        """
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Appends a line."""
        self._file.write(json.dumps(finite(row), allow_nan=False) + "\n")
        self._file.flush()

    def rewind(self, unit: Unit, step: int, epoch: int) -> None:
        """Drops what was told of a unit after a step: it will be told again.

        A last line that a killed process has left unfinished is dropped as well.
        """
        self._file.close()
        kept = [
            line
            for line in self._path.read_text(encoding="utf-8").splitlines()
            if (row := _parsed(line)) is not None and not _later(row, unit, step, epoch)
        ]
        write_whole(self._path, "".join(line + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _later(row: dict[str, Any], unit: Unit, step: int, epoch: int) -> bool:
    if row.get("method") != unit.method or row.get("seed") not in unit.seeds:
        return False
    return row["step"] > step if row["kind"] == "steps" else row["epoch"] > epoch


class TensorBoard:
    """Event files, one folder for each method and seed, so that runs lie over each other."""

    def __init__(self, folder: Path) -> None:
        """Writes nothing yet.

        Args:
            folder: Where the folders of the methods and seeds are made.
        """
        self._folder = folder
        self._writers: dict[tuple[str, int], Any] = {}
        self._steps: dict[tuple[str, int], int] = {}

    def _writer(self, run: tuple[str, int], purge_step: int | None = None) -> Any:
        from tensorboardX import SummaryWriter

        if run not in self._writers:
            folder = self._folder / f"{run[0]}-seed{run[1]}"
            self._writers[run] = SummaryWriter(str(folder), purge_step=purge_step)
        return self._writers[run]

    def resume(self, unit: Unit, step: int) -> None:
        """Lets TensorBoard forget what was told of a unit after a step."""
        for seed in unit.seeds:
            self._writer((unit.method, seed), purge_step=step + 1)
            self._steps[unit.method, seed] = step

    def write(self, row: dict[str, Any]) -> None:
        """Adds an entry of `rows`."""
        run = (row["method"], row["seed"])
        if row["kind"] == "steps":
            self._steps[run] = row["step"]
        kept = ("method", "seed", "kind", "step", "report")
        figures = {name: value for name, value in row.items() if name not in kept}
        prefix = "epoch" if row["kind"] == "epoch" else "train"
        if row["kind"] == "steps":
            figures |= {f"report/{name}": value for name, value in row["report"].items()}
        for name, value in _scalars(figures):
            self._writer(run).add_scalar(f"{prefix}/{name}", value, self._steps.get(run, 0))

    def flush(self) -> None:
        """Writes out what is buffered."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Closes all files."""
        for writer in self._writers.values():
            writer.close()


def _scalars(figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, list):
            yield from ((f"{name}/{i}", entry) for i, entry in enumerate(value))
        else:
            yield name, value


class Logs:
    """All logs of a run folder."""

    def __init__(self, folder: Path) -> None:
        """Opens the logs: ``metrics.jsonl`` and ``tensorboard/``.

        Raises:
            OSError: If they cannot be written.
        """
        self._lines = JsonLines(folder / "metrics.jsonl")
        self._board = TensorBoard(folder / "tensorboard")

    def write(self, event: Event) -> None:
        """Logs an event; `Resumed` drops what was logged beyond the checkpoint."""
        if isinstance(event, Resumed):
            epochs = max((record.epoch for record in event.records), default=0)
            self._lines.rewind(event.unit, event.step, epochs)
            self._board.resume(event.unit, event.step)
        for row in rows(event):
            self._lines.write(row)
            self._board.write(row)
        if not isinstance(event, Progress):
            self._board.flush()

    def close(self) -> None:
        """Closes all files."""
        self._lines.close()
        self._board.close()


@contextmanager
def logging_to(folder: Path) -> Iterator[Logs]:
    """Opens the logs of a run folder and closes them again."""
    logs = Logs(folder)
    try:
        yield logs
    finally:
        logs.close()
