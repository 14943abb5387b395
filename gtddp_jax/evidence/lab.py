"""Runs cells and keeps what they gave: one small JSON file a run, found by its configuration.

A study that is cut off goes on where it stopped, and two studies share the runs that they have in
common.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gtddp_jax.evidence.cells import Cell
from gtddp_jax.evidence.timing import interleaved, ratio
from gtddp_jax.evidence.variants import VARIANTS, fits
from gtddp_jax.training import data, networks
from gtddp_jax.training.files import write_whole
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.runner import Plan, run
from gtddp_jax.training.trainer import Trainer

FIGURES = ("train_loss", "average_loss", "validation_loss", "validation_accuracy")
"""What is kept of every epoch: fields of `EpochRecord`."""

CHANCE = 0.9
"""A final training loss above so many times that of a uniform guess counts as diverged: a network
that has learned nothing is no better than one that is not finite."""

TOGETHER = ("residual-mlp",)
"""Networks whose seeds are trained at once by ``jax.vmap``. Not those with convolutions: with a
filter for each seed they are many times slower on a CPU. Not with Kronecker curvature either, whose
eigenvectors would be computed at every step."""

WARM_UP, CHUNK, ROUNDS, LEAST = 16, 8, 11, 0.05
"""Of the timing: steps before it, steps in a call, rounds, seconds of a method in each round."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What the seeds of a cell gave.

    Attributes:
        cell: The cell.
        seeds: Its seeds.
        figures: `FIGURES` by name, [seeds, epochs]; not a number where a run was not finite.
        skipped: Steps that were not taken because they were not finite, by seed.
        seconds: Wall time of the steps of each seed.
    """

    cell: Cell
    seeds: tuple[int, ...]
    figures: Mapping[str, np.ndarray]
    skipped: tuple[int, ...]
    seconds: tuple[float, ...]

    def final(self, name: str, epochs: int | None = None) -> np.ndarray:
        """A figure after the last epoch, or after so many epochs, [seeds]."""
        last = self.figures[name].shape[1] if epochs is None else epochs
        return self.figures[name][:, last - 1]

    def whole(self, name: str, epochs: int | None = None) -> np.ndarray:
        """The mean of a figure over all epochs, or over so many, [seeds]."""
        return self.figures[name][:, :epochs].mean(1)

    @property
    def diverged(self) -> np.ndarray:
        """Which seeds ended without having learned anything: [seeds], bool."""
        return self.diverged_after(None)

    def diverged_after(self, epochs: int | None) -> np.ndarray:
        """Which seeds had learned nothing after so many epochs: loss not finite or near chance."""
        last = self.final("train_loss", epochs)
        return ~(last <= CHANCE * math.log(_classes(self.cell)))


class Lab:
    """Runs cells, or finds what they gave before.

    Args:
        folder: Where results are kept.
        data_dir: Folder of prepared data sets; None for the usual one.
        say: Is told of progress, one line at a time.
    """

    def __init__(
        self, folder: Path, data_dir: Any = None, say: Callable[[str], None] = print
    ) -> None:
        self._folder, self._data_dir, self._say = Path(folder), data_dir, say

    def results(self, cells: Iterable[Cell], seeds: int) -> dict[Cell, Result]:
        """Every cell's result with seeds 0, 1, ...; cells whose variant does not fit are left out.

        Raises:
            DataError: If a data set is not there; the text says how to get it.
            OSError: If a result cannot be written.
        """
        wanted = [cell for cell in dict.fromkeys(cells) if fits(cell.variant, cell.base)]
        return {
            cell: self._result(cell, tuple(range(seeds)), f"{number} of {len(wanted)}")
            for number, cell in enumerate(wanted, 1)
        }

    def _result(self, cell: Cell, seeds: tuple[int, ...], place: str) -> Result:
        kept = {seed: self._read(cell, seed) for seed in seeds}
        missing = [seed for seed, found in kept.items() if found is None]
        if missing:
            start = time.perf_counter()
            trainer = _trainer(cell, self._data_dir)
            together = cell.network in TOGETHER and cell.base not in ("kfac", "ekfac")
            for group in [missing] if together else [[seed] for seed in missing]:
                kept |= self._train(cell, tuple(group), trainer)
            said = f"{cell.label}, {cell.dataset}, {cell.network}, rate {cell.rate:g}"
            self._say(
                f"{place}: {said}, batch {cell.batch_size}, {len(missing)} runs, "
                f"{time.perf_counter() - start:.0f} s"
            )
        runs = [kept[seed] or {} for seed in seeds]
        return Result(
            cell,
            seeds,
            {name: np.array([_floats(run[name]) for run in runs]) for name in FIGURES},
            tuple(int(run["skipped"]) for run in runs),
            tuple(float(run["seconds"]) for run in runs),
        )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, cell: Cell, seed: int) -> dict[str, Any] | None:
        found = _json(self._path(cell.key(seed)))
        return found if found and len(found.get("train_loss", ())) == cell.epochs else None

    def _train(
        self, cell: Cell, seeds: tuple[int, ...], trainer: Trainer
    ) -> dict[int, dict[str, Any]]:
        events = run(trainer, seeds, Plan(cell.epochs, log_every=10**9))
        records = [event for event in events if isinstance(event, EpochRecord)]
        made = {}
        for seed in seeds:
            own = [record for record in records if record.seed == seed]
            made[seed] = {
                **{name: [_finite(getattr(record, name)) for record in own] for name in FIGURES},
                "skipped": sum(int(_finite(r.report.get("skipped_steps", 0)) or 0) for r in own),
                "seconds": sum(record.seconds for record in own),
                "cell": dataclasses.asdict(cell),
                "seed": seed,
            }
            self._write(cell.key(seed), made[seed])
        return made

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(name), json.dumps(content, allow_nan=False))

    def step_ratios(self, cells: Iterable[Cell]) -> dict[Cell, float]:
        """Time of a training step as a multiple of the base's, measured in one interleaved run.

        Args:
            cells: Cells; those that differ in nothing but their variant (and rate, schedule,
                epochs, which do not cost) are timed together and share a measurement.
        """
        wanted = [cell for cell in dict.fromkeys(cells) if fits(cell.variant, cell.base)]
        groups: dict[Cell, set[str]] = {}
        for cell in wanted:
            groups.setdefault(_costs_like(cell), set()).add(cell.variant)
        found = {group: self._ratios(group, names) for group, names in groups.items()}
        return {cell: found[_costs_like(cell)][cell.variant] for cell in wanted}

    def _ratios(self, group: Cell, variants: set[str]) -> dict[str, float]:
        name = f"time-{group.key(0)}"
        known = _json(self._path(name)) or {}
        if variants <= set(known):
            return known
        names = ["base", *sorted((variants | set(known)) - {"base"})]
        trainers = {
            v: _trainer(dataclasses.replace(group, variant=v), self._data_dir) for v in names
        }
        seconds = step_seconds(trainers)
        ratios = {v: ratio(seconds[v], seconds["base"]) for v in names} | known
        self._say(
            f"step times, {group.dataset}, {group.network}, {group.base}, batch {group.batch_size}:"
            f" {', '.join(f'{v} {r:.2f}' for v, r in ratios.items())}"
        )
        self._write(name, ratios)
        return ratios


def step_seconds(trainers: Mapping[str, Trainer]) -> dict[str, np.ndarray]:
    """Seconds of `CHUNK` real training steps of each trainer, in each of `ROUNDS` rounds."""

    def chunks(trainer: Trainer) -> Callable[[], None]:
        order = np.concatenate([trainer.rows((0,), 0, trainer.steps_per_epoch)] * WARM_UP)
        state = trainer.train(trainer.start((0,)), order[:WARM_UP])
        first = WARM_UP

        def advance() -> None:
            nonlocal state, first
            state = jax.block_until_ready(trainer.train(state, order[first : first + CHUNK]))
            first = (first + CHUNK) % (len(order) - CHUNK)

        return advance

    return interleaved({name: chunks(trainer) for name, trainer in trainers.items()}, ROUNDS, LEAST)


def _costs_like(cell: Cell) -> Cell:
    """The representative of all cells whose steps take as long, variants apart."""
    rate = dataclasses.replace(cell, variant="base", rate=1e-4, schedule="constant", epochs=1)
    return dataclasses.replace(rate, weight_decay=0.0)


def _classes(cell: Cell) -> int:
    return 100 if cell.dataset == "cifar100" else 10


@lru_cache(maxsize=2)
def _feed(
    dataset: str, subset: int | None, augmentation: str, normalise: bool, data_dir: Any
) -> tuple[data.Feed, int]:
    loaded = data.load(dataset, None if data_dir is None else Path(data_dir))
    if subset is not None and subset < len(loaded.train_labels):
        places = np.linspace(0, len(loaded.train_labels) - 1, subset).astype(int)
        loaded = dataclasses.replace(
            loaded,
            train_images=loaded.train_images[places],
            train_labels=loaded.train_labels[places],
        )
    return data.Feed(loaded, augmentation, normalise), loaded.classes


@lru_cache(maxsize=2)
def _network(name: str, classes: int) -> Any:
    return networks.build(name, classes)  # one object, so that what it initialises compiles once


def _trainer(cell: Cell, data_dir: Any) -> Trainer:
    feed, classes = _feed(cell.dataset, cell.subset, cell.augmentation, cell.normalise, data_dir)
    return Trainer(
        VARIANTS[cell.variant].method(cell.base),
        _network(cell.network, classes),
        feed,
        cell.settings,
        cell.batch_size,
        cell.epochs,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _floats(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _json(path: Path) -> dict[str, Any] | None:
    """The content of a file; None if there is none or it is no JSON object."""
    try:
        if os.path.getsize(path) > 2**24:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
