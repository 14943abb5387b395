"""Checkpoints of one unit, with orbax: asynchronous, atomic, the newest and the best are kept.

A checkpoint holds everything that continuing needs: the whole state, and as JSON the records of the
epochs so far. Orbax writes into a folder with another name and renames it when all is on disk, so
what has a step's name is complete; what a killed process leaves behind is cleaned up.
"""

import json
import logging
import os
import re
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gtddp_jax.training.peers import is_lost_peer
from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.state import TrainState
from gtddp_jax.training.typed import check, made

ACCURACY = "validation_accuracy"

META = dict[str, dict[str, str] | dict[str, int] | list[str] | float | None]
"""What stands beside the state: layout and checksums by array, records, numbers."""


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; its text is one line."""


def check_kept(keep: int, keep_best: int) -> None:
    """Checks how many checkpoints are to be kept.

    Raises:
        ValueError: If a number is out of range.
    """
    if keep < 1 or keep_best < 0:
        raise ValueError(
            f"keep must be at least 1 and keep_best at least 0, got {keep} and {keep_best}."
        )


class Saved(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: The state.
        step: Steps taken.
        records: Records of the epochs so far.
        seconds: Wall time of the steps of the running epoch so far.
    """

    state: TrainState
    step: int
    records: tuple[EpochRecord, ...]
    seconds: float


class Checkpoints:
    """The checkpoints of one unit in a folder of their own.

    Use it as a context: leaving it waits for what is still being written.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_best: int = 1) -> None:
        """Opens the folder, which is made with the first checkpoint.

        Args:
            folder: The folder.
            keep: How many of the newest checkpoints stay; at least 1.
            keep_best: How many of those with the highest validation accuracy stay as well.

        Raises:
            ValueError: If a number is out of range.
            CheckpointError: If the folder cannot be made or read.
        """
        from orbax import checkpoint
        from orbax.checkpoint import checkpoint_managers as managers

        check_kept(keep, keep_best)
        self.folder: Path = folder.absolute()
        best = managers.BestN(
            get_metric_fn=lambda metrics: metrics[ACCURACY],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        policies = [managers.LatestN(keep), *([best] if keep_best else [])]
        options = checkpoint.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
        )
        self._orbax = checkpoint
        with self._told("open the checkpoints in"):
            self._manager = checkpoint.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        self._log_level = logging.getLogger("absl").level
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax's; its errors are raised too
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        logging.getLogger("absl").setLevel(self._log_level)
        if is_lost_peer(error):
            return  # what is being written cannot be finished without the other process
        try:
            with self._told("write a checkpoint to"):
                self._manager.wait_until_finished()
        except CheckpointError:
            if error is None:
                raise
        finally:
            self._manager.close()

    def _told(self, what: str) -> "_Told":
        return _Told(f"cannot {what} {self.folder}")

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """Step of the kept checkpoint with the highest validation accuracy, if any has one."""
        accuracies = {step: self._meta(step)[ACCURACY] for step in self.steps}
        scored = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
        return max(scored)[1] if scored else None

    def save(
        self,
        state: TrainState,
        step: int,
        records: list[EpochRecord],
        seconds: float = 0.0,
        accuracy: float | None = None,
    ) -> None:
        """Begins to write a checkpoint; returns as soon as the state may change again.

        Args:
            state: The state.
            step: Steps taken.
            records: Records of the epochs so far.
            seconds: Wall time of the steps of the running epoch so far.
            accuracy: Validation accuracy of this very state; None in the middle of an epoch.

        Raises:
            CheckpointError: If this or the one before it cannot be written.
        """
        args = self._orbax.args
        meta = {
            "layout": layout(state),
            "records": [json.dumps(asdict(record)) for record in records],
            "seconds": seconds,
            ACCURACY: accuracy,
            "checksums": checksums(state),
        }
        meta["checksum"] = _checksum_of(meta)
        with self._told("write a checkpoint to"):
            self._manager.check_for_errors()
            self._manager.save(
                step,
                args=args.Composite(
                    state=args.StandardSave(_stored(state)), meta=args.JsonSave(meta)
                ),
                metrics=None if accuracy is None else {ACCURACY: accuracy},
            )

    def restore(self, like: TrainState, step: int | None = None) -> Saved | None:
        """Reads a checkpoint.

        Args:
            like: A state of the same run, for its structure, shapes, dtypes and places.
            step: Which one; by default the newest.

        Returns:
            What it holds; None if there is none.

        Raises:
            CheckpointError: If it belongs to another run or cannot be read.
        """
        if not self.steps:
            return None
        step = self.steps[-1] if step is None else step
        meta = self._meta(step)
        compare(self.folder / str(step), meta["layout"], layout(like))
        named = _named(like)
        abstract = jax.tree.map(
            self._orbax.utils.to_shape_dtype_struct, {n: x for n, x in named.items() if x.size}
        )
        args = self._orbax.args
        with self._readable(step):
            items = args.Composite(state=args.StandardRestore(abstract))
            restored: Any = self._manager.restore(step, args=items)
        found = restored.state
        leaves = [found.get(name, x) for name, x in named.items()]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        with self._readable(step):
            compare_checksums(checksums(state), meta["checksums"])
        return Saved(state, step, self._records(meta), meta["seconds"])

    def _meta(self, step: int) -> dict[str, Any]:
        args = self._orbax.args
        with self._readable(step):
            items = args.Composite(meta=args.JsonRestore())
            restored: Any = self._manager.restore(step, args=items)
            meta = restored.meta
            check(META, meta, "meta")
            if meta.get("checksum") != _checksum_of(meta):
                raise ValueError("the checksum of its records is not theirs")
            return meta

    def _records(self, meta: dict[str, Any]) -> tuple[EpochRecord, ...]:
        return tuple(made(EpochRecord, json.loads(record)) for record in meta["records"])

    def _readable(self, step: int) -> "_Told":
        others = [other for other in self.steps if other != step]
        advice = f"remove this folder to go on from step {others[-1]}" if others else "it is lost"
        return _Told(f"the checkpoint {self.folder / str(step)} is damaged ({advice})")


class _Told:
    """A context that turns whatever orbax raises into a `CheckpointError` of one line."""

    def __init__(self, beginning: str) -> None:
        self._beginning = beginning

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, CheckpointError):
            raise CheckpointError(f"{self._beginning}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What went wrong, in one line; the operating system's own words where it was the disk."""
    text = str(error).strip()
    code = re.search(r"os_error_code='(\d+)'", text)
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = text.partition("[tensorstore_spec")[0].strip()  # what follows is a page of JSON
    return first.splitlines()[0] if first else type(error).__name__


def _named(state: TrainState) -> dict[str, jax.Array]:
    """Every array by its path, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): x
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }


def _stored(state: TrainState) -> dict[str, jax.Array]:
    """What is written: every array that has an element (orbax takes no others)."""
    return {name: x for name, x in _named(state).items() if x.size}


def layout(state: TrainState) -> dict[str, str]:
    """Every array's dtype and shape by its path."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in _named(state).items()}


def checksums(state: TrainState) -> dict[str, int]:
    """The CRC-32 of every array by its path: neither orbax nor its format notice a flipped bit.

    Waits for the arrays, and copies those that are not in the host's memory.
    """

    def bits(x: Any) -> np.ndarray:
        keys = jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(x) if keys else x)
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    return {name: zlib.crc32(bits(x).data) for name, x in _stored(state).items()}


def compare_checksums(found: dict[str, int], needed: dict[str, int]) -> None:
    """Checks that arrays are those that were written.

    Raises:
        ValueError: If not; names the first array that differs.
    """
    wrong = [name for name, crc in found.items() if needed.get(name) != crc]
    if wrong:
        raise ValueError(f"{wrong[0]} does not have the checksum that it was written with")


def _checksum_of(meta: dict[str, Any]) -> int:
    """The CRC-32 of what stands beside the state."""
    rest = {name: value for name, value in meta.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def compare(place: Path, found: dict[str, str], needed: dict[str, str]) -> None:
    """Checks that a checkpoint's layout is the one needed.

    Raises:
        CheckpointError: If not; names the first array that differs.
    """
    if found == needed:
        return
    path = next(p for p in {**needed, **found} if found.get(p) != needed.get(p))
    raise CheckpointError(
        f"the checkpoint {place} is of another network or optimizer: {path} is "
        f"{found.get(path, 'absent')} there, {needed.get(path, 'absent')} here."
    )
