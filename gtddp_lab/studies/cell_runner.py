"""Run cells and store their results: one small JSON file per run, named by its configuration.

An interrupted study continues where it stopped, and studies share the runs they have in common.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

import gtddp_jax as gt
from gtddp_lab import data, networks
from gtddp_lab.core.files import MIB, parse_json, read_text_file, write_atomically
from gtddp_lab.core.json_types import check_type
from gtddp_lab.studies.cells import Cell
from gtddp_lab.studies.statistics import finite_or_none
from gtddp_lab.studies.step_timing import median_ratio, time_interleaved
from gtddp_lab.studies.variants import VARIANTS, variant_fits
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.trainer import Trainer

KEPT_FIGURES = ("train_loss", "average_loss", "validation_loss", "validation_accuracy")
"""Fields of `EpochRecord` that are stored for every epoch."""

DIVERGED_FACTOR = 0.9
"""A run counts as diverged if its final training loss exceeds this multiple of the chance level.

A network that learned nothing is no better than one whose loss is not finite.
"""

VMAPPED_NETWORKS = ("residual-mlp",)
"""Networks whose seeds are trained together by ``jax.vmap``.

Convolutions with a filter per seed are many times slower on a CPU.
"""

KRONECKER_BASES = ("kfac", "ekfac", "soap")
"""Bases whose seeds train one after the other: ``vmap`` would refresh factors in every step."""

WARM_UP_STEPS, STEPS_PER_CALL, TIMING_ROUNDS, LEAST_ROUND_SECONDS = 16, 8, 11, 0.05
"""Parameters of the timing: each method runs at least the given seconds per round."""

RESULT_LIMIT = 16 * MIB
"""Largest stored result that is read; a run of a thousand epochs needs a hundredth."""

StoredRun: TypeAlias = dict[str, Any]
"""JSON content of the result of one run."""


@dataclasses.dataclass(frozen=True)
class CellResult:
    """Results of a cell for all seeds.

    Attributes:
        cell: The cell.
        seeds: Its seeds.
        figures: `KEPT_FIGURES` by name, [seeds, epochs]; NaN where a run was not finite.
        skipped: Number of steps skipped because they were not finite, by seed.
        seconds: Wall time of the steps of each seed.
    """

    cell: Cell
    seeds: tuple[int, ...]
    figures: Mapping[str, np.ndarray]
    skipped: tuple[int, ...]
    seconds: tuple[float, ...]

    def final_figure(self, name: str, epochs: int | None = None) -> np.ndarray:
        """Return a figure after the last epoch, or after ``epochs`` epochs: [seeds]."""
        last = self.figures[name].shape[1] if epochs is None else epochs
        return self.figures[name][:, last - 1]

    def mean_figure(self, name: str, epochs: int | None = None) -> np.ndarray:
        """Return the mean of a figure over all epochs, or over the first ``epochs``: [seeds]."""
        return self.figures[name][:, :epochs].mean(1)

    @property
    def diverged(self) -> np.ndarray:
        """Which seeds have diverged after the last epoch: bool [seeds]."""
        return self.diverged_after(None)

    def diverged_after(self, epochs: int | None) -> np.ndarray:
        """Return which seeds have diverged after ``epochs`` epochs.

        Their loss is not finite or near the loss of a uniform guess.
        """
        last = self.final_figure("train_loss", epochs)
        return ~(last <= DIVERGED_FACTOR * math.log(_class_count(self.cell)))


class CellRunner:
    """Runs cells, or reads their stored results.

    Args:
        folder: Folder of the stored results.
        data_dir: Folder of prepared data sets; None for the default one.
        say: Prints one line of progress.
    """

    def __init__(
        self,
        folder: Path,
        data_dir: str | Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._folder, self._data_dir, self._say = Path(folder), data_dir, say

    def run_cells(self, cells: Iterable[Cell], seeds: int) -> dict[Cell, CellResult]:
        """Return the results of all cells with seeds 0, 1, ...

        Cells whose variant does not support the base are left out.

        Raises:
            DataError: If a data set is not available; the message says how to get it.
            OSError: If a result cannot be written.
        """
        wanted = _supported_cells(cells)
        return {
            cell: self._run_cell(cell, tuple(range(seeds)), f"{number} of {len(wanted)}")
            for number, cell in enumerate(wanted, 1)
        }

    def _run_cell(self, cell: Cell, seeds: tuple[int, ...], progress: str) -> CellResult:
        stored = {seed: self._read_run(cell, seed) for seed in seeds}
        missing = [seed for seed, run in stored.items() if run is None]
        if missing:
            start = time.perf_counter()
            trainer = _cell_trainer(cell, self._data_dir)
            together = cell.network in VMAPPED_NETWORKS and cell.base not in KRONECKER_BASES
            # With vmap all missing seeds train at once; otherwise each alone.
            for group in [missing] if together else [[seed] for seed in missing]:
                stored |= self._train_seeds(cell, tuple(group), trainer)
            description = f"{cell.label}, {cell.dataset}, {cell.network}, rate {cell.rate:g}"
            self._say(
                f"{progress}: {description}, batch {cell.batch_size}, {len(missing)} runs, "
                f"{time.perf_counter() - start:.0f} s"
            )
        runs = [stored[seed] or {} for seed in seeds]
        return CellResult(
            cell,
            seeds,
            {name: np.array([_nan_if_none(run[name]) for run in runs]) for name in KEPT_FIGURES},
            tuple(int(run["skipped"]) for run in runs),
            tuple(float(run["seconds"]) for run in runs),
        )

    def _result_path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read_run(self, cell: Cell, seed: int) -> StoredRun | None:
        run = _read_json_object(self._result_path(cell.result_key(seed)))
        return run if run and _is_complete(run, cell.epochs) else None

    def _train_seeds(
        self, cell: Cell, seeds: tuple[int, ...], trainer: Trainer
    ) -> dict[int, StoredRun]:
        events = run_unit(trainer, seeds, RunPlan(cell.epochs, log_every=10**9))
        records = [event for event in events if isinstance(event, EpochRecord)]
        runs = {}
        for seed in seeds:
            runs[seed] = {
                **_summarize_run([record for record in records if record.seed == seed]),
                "cell": dataclasses.asdict(cell),
                "seed": seed,
            }
            self._write_result(cell.result_key(seed), runs[seed])
        return runs

    def _write_result(self, name: str, content: StoredRun) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._result_path(name), json.dumps(content, allow_nan=False))

    def step_ratios(self, cells: Iterable[Cell]) -> dict[Cell, float]:
        """Measure the time of a training step as a multiple of the base's, interleaved.

        Args:
            cells: Cells. Those with steps of equal cost, variants apart, share a measurement.
        """
        wanted = _supported_cells(cells)
        groups: dict[Cell, set[str]] = {}
        for cell in wanted:
            groups.setdefault(_timing_cell(cell), set()).add(cell.variant)
        ratios = {group: self._variant_ratios(group, names) for group, names in groups.items()}
        return {cell: ratios[_timing_cell(cell)][cell.variant] for cell in wanted}

    def step_costs(self, cells: Sequence[Cell]) -> dict[Cell, float]:
        """Measure the time of a step of each cell as a multiple of the first's, interleaved.

        Args:
            cells: Cells of one data set and network.
        """
        keys = [f"{cell.base}/{cell.variant}" for cell in cells]
        group = dataclasses.replace(_timing_cell(cells[0]), base="sgd")
        name = f"costs-{group.result_key(0)}"
        known = self._read_ratios(name)
        if not set(keys) <= set(known):
            known = self._measure_ratios(
                dict(zip(keys, cells, strict=True)), f"{group.dataset}, {group.network}", {}
            )
            self._write_result(name, known)
        return {cell: known[key] for key, cell in zip(keys, cells, strict=True)}

    def _read_ratios(self, name: str) -> dict[str, float]:
        """The stored ratios of step times of this name."""
        known = _read_json_object(self._result_path(name)) or {}
        return {key: ratio for key, ratio in known.items() if isinstance(ratio, float)}

    def _measure_ratios(
        self, cells: Mapping[str, Cell], problem: str, known: Mapping[str, float]
    ) -> dict[str, float]:
        """The step times of cells as multiples of the first's, interleaved; says them."""
        seconds = step_seconds(
            {name: _cell_trainer(cell, self._data_dir) for name, cell in cells.items()}
        )
        first = seconds[next(iter(cells))]
        # Known ratios win, so that reports of the same folder agree.
        ratios = {name: median_ratio(seconds[name], first) for name in cells} | dict(known)
        shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        self._say(f"step times, {problem}: {shown}")
        return ratios

    def _variant_ratios(self, group: Cell, variants: set[str]) -> dict[str, float]:
        name = f"time-{group.result_key(0)}"
        known = self._read_ratios(name)
        if variants <= set(known):
            return known
        names = ["base", *sorted((variants | set(known)) - {"base"})]
        cells = {variant: dataclasses.replace(group, variant=variant) for variant in names}
        problem = f"{group.dataset}, {group.network}, {group.base}, batch {group.batch_size}"
        ratios = self._measure_ratios(cells, problem, known)
        self._write_result(name, ratios)
        return ratios


def step_seconds(trainers: Mapping[str, Trainer]) -> dict[str, np.ndarray]:
    """Measure the seconds of `STEPS_PER_CALL` training steps of each trainer, in each round."""

    def chunk_of_steps(trainer: Trainer) -> Callable[[], None]:
        # One epoch of rows, repeated, so that timing never runs out of batches.
        order = np.concatenate([trainer.rows((0,), 0, trainer.steps_per_epoch)] * WARM_UP_STEPS)
        state = trainer.train(trainer.start((0,)), order[:WARM_UP_STEPS])
        first = WARM_UP_STEPS

        def advance() -> None:
            nonlocal state, first
            rows = order[first : first + STEPS_PER_CALL]
            state = jax.block_until_ready(trainer.train(state, rows))
            first = (first + STEPS_PER_CALL) % (len(order) - STEPS_PER_CALL)

        return advance

    steps = {name: chunk_of_steps(trainer) for name, trainer in trainers.items()}
    return time_interleaved(steps, TIMING_ROUNDS, LEAST_ROUND_SECONDS)


def _supported_cells(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in dict.fromkeys(cells) if variant_fits(cell.variant, cell.base)]


def _summarize_run(records: list[EpochRecord]) -> StoredRun:
    """The stored figures of one run, ready for JSON."""
    figures = {
        name: [finite_or_none(getattr(record, name)) for record in records] for name in KEPT_FIGURES
    }
    skipped = (finite_or_none(record.report.get("skipped_steps", 0)) for record in records)
    return {
        **figures,
        "skipped": sum(int(count or 0) for count in skipped),
        "seconds": sum(record.seconds for record in records),
    }


def _timing_cell(cell: Cell) -> Cell:
    """A representative of all cells whose steps take the same time, apart from their variant."""
    return dataclasses.replace(
        cell, variant="base", rate=1e-4, schedule="constant", epochs=1, weight_decay=0.0
    )


def _class_count(cell: Cell) -> int:
    return 100 if cell.dataset == "cifar100" else 10


@lru_cache(maxsize=2)
def _cached_feed(
    dataset_name: str,
    subset: int | None,
    augmentation: str,
    normalise: bool,
    data_dir: str | Path | None,
) -> tuple[data.Feed, int]:
    dataset = data.load_dataset(dataset_name, None if data_dir is None else Path(data_dir))
    if subset is not None and subset < len(dataset.train_labels):
        rows = np.linspace(0, len(dataset.train_labels) - 1, subset).astype(int)
        dataset = dataclasses.replace(
            dataset,
            train_images=dataset.train_images[rows],
            train_labels=dataset.train_labels[rows],
        )
    return data.Feed(dataset, augmentation, normalise), dataset.classes


@lru_cache(maxsize=2)
def _cached_network(name: str, classes: int) -> gt.Network:
    # Sharing one object lets its initialization compile only once.
    return networks.build_network(name, classes)


def _cell_trainer(cell: Cell, data_dir: str | Path | None) -> Trainer:
    feed, classes = _cached_feed(
        cell.dataset, cell.subset, cell.augmentation, cell.normalise, data_dir
    )
    return Trainer(
        VARIANTS[cell.variant].method(cell.base),
        _cached_network(cell.network, classes),
        feed,
        cell.settings,
        cell.batch_size,
        cell.epochs,
    )


def _nan_if_none(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _read_json_object(path: Path) -> dict[str, Any] | None:
    """The content of a file; None if there is no such file or it is not a JSON object."""
    try:
        content = parse_json(read_text_file(path, RESULT_LIMIT))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _is_complete(run: StoredRun, epochs: int) -> bool:
    """Whether a stored result has all figures of its epochs, and nothing but numbers."""
    try:
        for name in KEPT_FIGURES:
            check_type(list[float | None], run.get(name), name)
        for name in ("skipped", "seconds"):
            check_type(float, run.get(name), name)
    except ValueError:
        return False
    return all(len(run[name]) == epochs for name in KEPT_FIGURES)
