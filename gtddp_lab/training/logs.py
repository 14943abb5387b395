"""Logs of a run: JSON lines and TensorBoard event files."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gtddp_lab.training.event_file import EventFile
from gtddp_lab.training.json_lines import JsonLinesLog
from gtddp_lab.training.records import (
    EpochRecord,
    RunEvent,
    TrainingUnit,
    TrainProgress,
    UnitResumed,
)


def log_entries(event: RunEvent) -> list[dict[str, Any]]:
    """Converts an event to flat log entries, one per seed; `UnitResumed` has none.

    ``step`` counts from the beginning of the run. Entries of ``kind`` "steps" hold means over the
    running epoch so far, entries of ``kind`` "epoch" the scores after an epoch. The weights of
    watched images are stored in the results file only.
    """
    if isinstance(event, EpochRecord):
        scores = asdict(event)
        del scores["sample_weights"]
        return [{"kind": "epoch", **scores}]
    if isinstance(event, UnitResumed):
        return []
    # A clock with coarse resolution can measure no time at all for a short chunk.
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


class TensorBoardLog:
    """Event files, in one folder per method and seed, so that TensorBoard overlays the runs."""

    def __init__(self, folder: Path) -> None:
        """Writes nothing yet.

        Args:
            folder: Parent of the folders of methods and seeds.
        """
        self._folder = folder
        self._writers: dict[tuple[str, int], EventFile] = {}
        self._last_steps: dict[tuple[str, int], int] = {}

    def _writer_for(self, method_seed: tuple[str, int], purge_step: int | None = None) -> EventFile:
        if method_seed not in self._writers:
            method, seed = method_seed
            folder = self._folder / f"{method}-seed{seed}"
            self._writers[method_seed] = EventFile(folder, purge_step)
        return self._writers[method_seed]

    def rewind(self, unit: TrainingUnit, step: int) -> None:
        """Tells TensorBoard to drop the entries of a unit after a step."""
        for seed in unit.seeds:
            self._writer_for((unit.method, seed), purge_step=step + 1)
            self._last_steps[unit.method, seed] = step

    def write_entry(self, entry: dict[str, Any]) -> None:
        """Adds an entry of `log_entries`."""
        method_seed = (entry["method"], entry["seed"])
        is_epoch = entry["kind"] == "epoch"
        not_scalars = ("method", "seed", "kind", "step", "report")
        figures = {name: value for name, value in entry.items() if name not in not_scalars}
        if not is_epoch:
            self._last_steps[method_seed] = entry["step"]
            figures |= {f"report/{name}": value for name, value in entry["report"].items()}
        prefix = "epoch" if is_epoch else "train"
        # Entries of an epoch have no step of their own; they appear at the last step before them.
        step = self._last_steps.get(method_seed, 0)
        for name, value in _named_scalars(figures):
            self._writer_for(method_seed).add_scalar(f"{prefix}/{name}", value, step)

    def flush(self) -> None:
        """Writes buffered entries to disk."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Closes all files, also if one of them cannot be written."""
        with ExitStack() as stack:
            for writer in self._writers.values():
                stack.callback(writer.close)


def _named_scalars(figures: Mapping[str, float | list[float]]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, list):
            yield from ((f"{name}/{index}", entry) for index, entry in enumerate(value))
        else:
            yield name, value


class RunLogs:
    """All logs of a run folder.

    Attributes:
        notes: One sentence for everything that was repaired in the logs of earlier starts.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the logs: ``metrics.jsonl`` and ``tensorboard/``.

        Raises:
            OSError: If they cannot be written.
            LogError: If those of earlier starts cannot be continued.
        """
        self._json_lines = JsonLinesLog(folder / "metrics.jsonl")
        self._tensorboard = TensorBoardLog(folder / "tensorboard")
        self._begun: set[TrainingUnit] = set()
        self.notes: tuple[str, ...] = self._json_lines.notes

    def write_event(self, event: RunEvent) -> None:
        """Logs an event; the first one of a unit drops what earlier starts logged after it."""
        if isinstance(event, UnitResumed):
            epochs = max((record.epoch for record in event.records), default=0)
            self._begin_unit(event.unit, event.step, epochs)
        elif isinstance(event, TrainProgress) and event.unit not in self._begun:
            # Killed before its first checkpoint, or never started: it begins at its first step.
            self._begin_unit(event.unit, 0, 0)
        for entry in log_entries(event):
            self._json_lines.write_entry(entry)
            self._tensorboard.write_entry(entry)
        # Flushing event files is slow, so entries within an epoch stay buffered.
        if not isinstance(event, TrainProgress):
            self._tensorboard.flush()

    def _begin_unit(self, unit: TrainingUnit, step: int, epochs: int) -> None:
        self._begun.add(unit)
        if self._json_lines.continues:
            self._json_lines.rewind(unit, step, epochs)
        if step or self._json_lines.continues:
            self._tensorboard.rewind(unit, step)

    def close(self) -> None:
        """Closes all files, also if one of them cannot be written."""
        with ExitStack() as stack:
            stack.callback(self._tensorboard.close)
            stack.callback(self._json_lines.close)


@contextmanager
def open_logs(folder: Path) -> Iterator[RunLogs]:
    """Opens the logs of a run folder; closes them on exit."""
    logs = RunLogs(folder)
    try:
        yield logs
    finally:
        logs.close()
