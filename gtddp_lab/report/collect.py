"""Collect everything that a report needs from the folder of a run, and note what is missing."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gtddp_jax.network import StageFacts
from gtddp_lab.core.files import MIB
from gtddp_lab.core.printing import printable_text
from gtddp_lab.report import checks
from gtddp_lab.report.checks import WatchedImage
from gtddp_lab.report.sources import (
    MissingFileError,
    ReportError,
    read_run_json,
    read_run_text,
)
from gtddp_lab.training import results
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.methods import TrainingMethod
from gtddp_lab.training.records import EpochRecord

RESULTS_SIZE_LIMIT = 256 * MIB
NETWORK_SIZE_LIMIT = 16 * MIB
IMAGES_SIZE_LIMIT = 64 * MIB
CONFIG_SIZE_LIMIT = MIB
MOST_STARTS = 10_000

RUN_LETTERS = string.ascii_uppercase

Content = TypeVar("Content")


@dataclass(frozen=True)
class ReportedRun:
    """One run.

    Attributes:
        name: Name of its folder.
        short: Short name, A, B, ..., that distinguishes its methods from those of other runs; empty
            for a single run.
        experiment: What was compared.
        records: Records of its epochs.
        status: One of ``results.STATUSES``.
        starts: Provenance of each start.
        compile_seconds: Compilation time of the last start, by method.
        stages: The stages of its network; None if not known.
        images: The watched images by index; empty if not known.
        config: Content of its config.yaml; None if not known.
        missing: One sentence for each part that is missing.
    """

    name: str
    short: str
    experiment: Experiment
    records: tuple[EpochRecord, ...]
    status: str
    starts: tuple[dict[str, Any], ...]
    compile_seconds: dict[str, float]
    stages: tuple[StageFacts, ...] | None
    images: dict[int, WatchedImage]
    config: str | None
    missing: tuple[str, ...]

    @property
    def games(self) -> tuple[TrainingMethod, ...]:
        """The methods with sample weights."""
        return tuple(method for method in self.experiment.methods() if method.has_sample_weights)

    def records_of(self, method: str) -> list[EpochRecord]:
        """Return the records of a method."""
        return [record for record in self.records if record.method == method]


def read_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """Read several runs.

    Raises:
        ReportError: If one of them cannot be read or is given twice; the message names it.
    """
    # Resolved, so that links and relative paths count as the same folder.
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ReportError("a run is named twice.")
    if len(folders) == 1:
        return [read_run(folders[0])]
    short_names = [
        RUN_LETTERS[index] if index < len(RUN_LETTERS) else str(index + 1)
        for index in range(len(folders))
    ]
    return [read_run(folder, short) for folder, short in zip(folders, short_names, strict=True)]


def read_run(folder: Path, short: str = "") -> ReportedRun:
    """Read one run.

    Args:
        folder: Its folder.
        short: See `ReportedRun`.

    Raises:
        ReportError: If it has no usable results. Other parts may be missing.
    """
    try:
        content = read_run_json(folder, "results.json", RESULTS_SIZE_LIMIT)
        experiment, records, content = results.parse_results(content, "results.json")
        checks.check_epoch_records(records, experiment)
        starts, compile_seconds = _parse_starts(content)
    except results.ResultsError as error:
        raise ReportError(f"{printable_text(str(folder))}: {printable_text(str(error))}") from error
    except MissingFileError as error:
        raise ReportError(
            f"{printable_text(str(folder))} has no results.json: it is not the folder of a run, "
            "or the run has not finished an epoch."
        ) from error
    except ReportError as error:
        raise ReportError(f"{printable_text(str(folder))}: {printable_text(str(error))}") from error
    missing: list[str] = []
    stages = _optional_part(
        missing,
        "The game of the network",
        lambda: checks.parse_network(read_run_json(folder, "network.json", NETWORK_SIZE_LIMIT)),
    )
    # Only runs with recorded weights have watched images.
    images = None
    if any(record.sample_weights is not None for record in records):
        images = _optional_part(
            missing,
            "The watched images",
            lambda: checks.parse_watched_images(
                read_run_json(folder, "watched.json", IMAGES_SIZE_LIMIT)
            ),
        )
    config = _optional_part(
        missing,
        "The configuration file",
        lambda: read_run_text(folder, "config.yaml", CONFIG_SIZE_LIMIT),
    )
    if config is not None:
        # The file comes from outside: control characters must not reach the page.
        config = "\n".join(printable_text(line) for line in config.splitlines())
    return ReportedRun(
        name=printable_text(folder.resolve().name),
        short=short,
        experiment=experiment,
        records=tuple(records),
        status=printable_text(str(content.get("status"))),
        starts=starts,
        compile_seconds=compile_seconds,
        stages=stages,
        images=images or {},
        config=config,
        missing=(
            *_unfinished_note(experiment, records, str(content.get("status"))),
            *missing,
            *_unrecorded_notes(experiment, records, starts),
        ),
    )


def _parse_starts(content: dict[str, Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, float]]:
    """The starts of a run, and the compilation time by method."""
    starts = tuple(
        checks.require_mapping(start, "a start")
        for start in checks.require_list(content.get("starts", []), "starts", MOST_STARTS)
    )
    seconds = checks.require_mapping(content.get("compile_seconds", {}), "compile_seconds")
    return starts, {key: checks.require_number(value, "a time") for key, value in seconds.items()}


def _optional_part(missing: list[str], name: str, read: Callable[[], Content]) -> Content | None:
    """Return ``read()``; on failure, return None and add a sentence to ``missing``."""
    try:
        return read()
    except ReportError as error:
        missing.append(f"{name} cannot be shown: {printable_text(str(error))}")
        return None


def _unfinished_note(
    experiment: Experiment, records: Sequence[EpochRecord], status: str
) -> tuple[str, ...]:
    planned = len(experiment.methods()) * len(experiment.seeds) * experiment.epochs
    if len(records) == planned:
        return ()
    return (f"The run is {printable_text(status)}: it has {len(records)} of {planned} epochs.",)


def _unrecorded_notes(
    experiment: Experiment, records: Sequence[EpochRecord], starts: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    games = {method.name for method in experiment.methods() if method.has_sample_weights}
    weighted = [record for record in records if record.method in games]
    notes: list[str] = []
    without = sum(record.sample_weights is None for record in weighted)
    if without:
        notes.append(
            f"Sample weights of single images are not recorded for {without} of {len(weighted)} "
            "epochs (an older version, or --watch 0). For these, the smallest, mean and largest "
            "sample weights of the batches are shown."
        )
    if not all("seconds" in start for start in starts) or not starts:
        notes.append(
            "Times of evaluation, checkpoints and other work are not recorded for every start "
            "(an older version). Only compilation and steps are shown."
        )
    return tuple(notes)
