"""From a run's folder to what a report is made of, and what is missing there."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gtddp_jax.network.facts import StageFacts
from gtddp_jax.training import results
from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.methods import Method
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.report import checks
from gtddp_jax.training.report.checks import Picture
from gtddp_jax.training.report.sources import MIB, Absent, ReportError, plain, read_json, read_text

RESULTS_LIMIT = 256 * MIB
NETWORK_LIMIT = 16 * MIB
PICTURES_LIMIT = 64 * MIB
CONFIG_LIMIT = MIB

LETTERS = string.ascii_uppercase

Content = TypeVar("Content")


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: Its folder's name.
        short: What tells its methods from those of other runs: A, B, ...; empty for a single run.
        experiment: What was compared.
        records: Its epochs.
        status: One of ``results.STATUSES``.
        starts: Where its results come from.
        compile_seconds: Compilation time by method, of the last start.
        stages: Its game; None if not known.
        pictures: The watched images; empty if not known.
        config: Its config.yaml; None if not known.
        missing: What it lacks, a sentence each.
    """

    name: str
    short: str
    experiment: Experiment
    records: tuple[EpochRecord, ...]
    status: str
    starts: tuple[dict[str, Any], ...]
    compile_seconds: dict[str, float]
    stages: tuple[StageFacts, ...] | None
    pictures: dict[int, Picture]
    config: str | None
    missing: tuple[str, ...]

    @property
    def games(self) -> tuple[Method, ...]:
        """The methods that weigh samples."""
        return tuple(method for method in self.experiment.methods() if method.weighs)

    def of(self, method: str) -> list[EpochRecord]:
        """The records of a method."""
        return [record for record in self.records if record.method == method]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs.

    Raises:
        ReportError: If one of them cannot be read, or is given twice; names it.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ReportError("a run is named twice.")
    if len(folders) == 1:
        return [read_run(folders[0])]
    shorts = [LETTERS[i] if i < len(LETTERS) else str(i + 1) for i in range(len(folders))]
    return [read_run(folder, short) for folder, short in zip(folders, shorts, strict=True)]


def read_run(folder: Path, short: str = "") -> Run:
    """Reads one run.

    Args:
        folder: Its folder.
        short: See `Run`.

    Raises:
        ReportError: If it has no usable results.
    """
    try:
        content = read_json(folder, "results.json", RESULTS_LIMIT)
        experiment, records, content = results.parse(content, "results.json")
        checks.check_records(records, experiment)
        starts = tuple(
            checks.mapping(start, "a start")
            for start in checks.items(content.get("starts", []), "starts", 10_000)
        )
        compiled = checks.mapping(content.get("compile_seconds", {}), "compile_seconds")
        compiled = {key: checks.number(value, "a time") for key, value in compiled.items()}
    except results.ResultsError as error:
        raise ReportError(f"{plain(str(folder))}: {plain(str(error))}") from error
    except Absent as error:
        raise ReportError(
            f"{plain(str(folder))} has no results.json: it is not the folder of a run, or the run "
            "has not finished an epoch."
        ) from error
    except ReportError as error:
        raise ReportError(f"{plain(str(folder))}: {plain(str(error))}") from error
    missing: list[str] = []
    stages = _part(
        missing,
        "The game of the network",
        lambda: checks.network(read_json(folder, "network.json", NETWORK_LIMIT)),
    )
    watched = any(record.weights is not None for record in records)
    pictures = (
        _part(
            missing,
            "The watched images",
            lambda: checks.pictures(read_json(folder, "watched.json", PICTURES_LIMIT)),
        )
        if watched
        else None
    )
    config = _part(
        missing, "The configuration file", lambda: read_text(folder, "config.yaml", CONFIG_LIMIT)
    )
    return Run(
        name=plain(folder.resolve().name),
        short=short,
        experiment=experiment,
        records=tuple(records),
        status=plain(str(content.get("status"))),
        starts=starts,
        compile_seconds=compiled,
        stages=stages,
        pictures=pictures or {},
        config=None if config is None else "\n".join(plain(x) for x in config.splitlines()),
        missing=(
            *_unfinished(experiment, records, str(content.get("status"))),
            *missing,
            *_unrecorded(experiment, records, starts),
        ),
    )


def _part(missing: list[str], what: str, read: Callable[[], Content]) -> Content | None:
    """What ``read`` returns; None, and a sentence in ``missing``, if it cannot be had."""
    try:
        return read()
    except ReportError as error:
        missing.append(f"{what} cannot be shown: {plain(str(error))}")
        return None


def _unfinished(
    experiment: Experiment, records: Sequence[EpochRecord], status: str
) -> tuple[str, ...]:
    planned = len(experiment.games) * len(experiment.seeds) * experiment.epochs
    if len(records) == planned:
        return ()
    return (f"The run is {plain(status)}: {len(records)} of {planned} epochs are there.",)


def _unrecorded(
    experiment: Experiment, records: Sequence[EpochRecord], starts: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    games = {method.name for method in experiment.methods() if method.weighs}
    weighed = [record for record in records if record.method in games]
    found: list[str] = []
    without = sum(record.weights is None for record in weighed)
    if without:
        found.append(
            f"Weights of single images were not recorded in {without} of {len(weighed)} epochs "
            "(an older version, or --watch 0): smallest, mean and largest weight of the batches "
            "are shown there instead."
        )
    if not all("seconds" in start for start in starts) or not starts:
        found.append(
            "Times of evaluation, checkpoints and other work were not recorded at every start "
            "(an older version): compilation and steps are shown."
        )
    return tuple(found)
