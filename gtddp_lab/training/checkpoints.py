"""Checkpoints of one unit, written by orbax: asynchronous, atomic, newest and best are kept.

A checkpoint holds everything that is needed to resume: the whole state and, as JSON, the records of
the epochs so far. Orbax writes into a temporary folder and renames it when everything is on disk,
so a folder that is named after a step is complete; the remains of a killed process are cleaned up.
"""

import json
import logging
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from gtddp_lab.core.bounds import check_integer
from gtddp_lab.core.files import MIB
from gtddp_lab.core.json_types import check_type, dataclass_from_json
from gtddp_lab.core.peers import is_lost_peer
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.settings import MOST_STEPS
from gtddp_lab.training.state import RunState

ACCURACY_METRIC = "validation_accuracy"

META_TYPES = {
    "layout": dict[str, str],
    "checksums": dict[str, int],
    "checksum": int,
    "records": list[str],
    "seconds": float,
    ACCURACY_METRIC: float | None,
}
"""JSON beside the state: layout and checksums by array, records, numbers."""

ORBAX_LOGGERS = ("absl", "asyncio")
"""Loggers that repeat errors which orbax raises as well; the exceptions suffice."""

META_LIMIT = 256 * MIB
"""Largest file of a checkpoint that is read as a whole; arrays are read by their known sizes."""


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message is one line."""


def check_keep_counts(keep: int, keep_best: int) -> None:
    """Checks how many checkpoints are to be kept.

    Raises:
        ValueError: If a number is out of range.
    """
    check_integer("keep", keep, 1, MOST_STEPS)
    check_integer("keep_best", keep_best, 0, MOST_STEPS)


class SavedRun(NamedTuple):
    """Content of a checkpoint.

    Attributes:
        state: The state.
        step: Steps taken.
        records: Records of the epochs so far.
        seconds: Wall time of the running epoch's steps so far.
    """

    state: RunState
    step: int
    records: tuple[EpochRecord, ...]
    seconds: float


class Checkpoints:
    """The checkpoints of one unit, in a folder of their own.

    Use it as a context manager: on exit it waits for the checkpoint that is being written.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_best: int = 1) -> None:
        """Opens the folder; the first checkpoint creates it.

        Args:
            folder: The folder.
            keep: Number of newest checkpoints to keep, at least 1.
            keep_best: Number of checkpoints with the highest validation accuracy to keep as well.

        Raises:
            ValueError: If a number is out of range.
            CheckpointError: If the folder cannot be created or read.
        """
        from orbax import checkpoint
        from orbax.checkpoint import checkpoint_managers as managers

        check_keep_counts(keep, keep_best)
        self.folder: Path = folder.absolute()
        best = managers.BestN(
            get_metric_fn=lambda metrics: metrics[ACCURACY_METRIC],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        # A checkpoint is kept if any policy wants it.
        policies = [managers.LatestN(keep), *([best] if keep_best else [])]
        options = checkpoint.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
        )
        self._orbax = checkpoint
        with self._folder_errors("open the checkpoints in"):
            self._manager = checkpoint.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Self:
        self._log_levels = {name: logging.getLogger(name).level for name in ORBAX_LOGGERS}
        for name in ORBAX_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without the lost process the checkpoint being written cannot be finished.
        if not is_lost_peer(error):
            self._finish(is_failing=error is not None)
        # After an error orbax's threads may still fail, and would bury its message.
        if error is None:
            for name, level in self._log_levels.items():
                logging.getLogger(name).setLevel(level)

    def _finish(self, *, is_failing: bool) -> None:
        """Waits for the checkpoint that is being written; an earlier error hides one of its own."""
        errors = []
        for action in (self._manager.wait_until_finished, self._manager.close):
            try:
                with self._folder_errors("write a checkpoint to"):
                    action()
            except CheckpointError as error:
                errors.append(error)
        if errors and not is_failing:
            raise errors[0]

    def _folder_errors(self, action: str) -> "_CheckpointErrors":
        return _CheckpointErrors(f"cannot {action} {self.folder}")

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """Step of the kept checkpoint with the highest validation accuracy, if any has one."""
        accuracies = {step: self._read_meta(step)[ACCURACY_METRIC] for step in self.steps}
        scored = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
        return max(scored)[1] if scored else None

    def save(
        self,
        state: RunState,
        step: int,
        records: list[EpochRecord],
        seconds: float = 0.0,
        accuracy: float | None = None,
    ) -> None:
        """Starts to write a checkpoint; returns as soon as the state may be donated.

        Args:
            state: The state.
            step: Steps taken.
            records: Records of the epochs so far.
            seconds: Wall time of the running epoch's steps so far.
            accuracy: Validation accuracy of this state; None within an epoch.

        Raises:
            CheckpointError: If this checkpoint or the one before cannot be written.
        """
        args = self._orbax.args
        meta: dict[str, Any] = {
            "layout": state_layout(state),
            "records": [json.dumps(asdict(record)) for record in records],
            "seconds": seconds,
            ACCURACY_METRIC: accuracy,
            "checksums": state_checksums(state),
        }
        meta["checksum"] = _meta_checksum(meta)  # over all other entries
        with self._folder_errors("write a checkpoint to"):
            self._manager.check_for_errors()  # of the checkpoint before, written in the background
            self._manager.save(
                step,
                args=args.Composite(
                    state=args.StandardSave(_stored_arrays(state)), meta=args.JsonSave(meta)
                ),
                metrics=None if accuracy is None else {ACCURACY_METRIC: accuracy},
            )

    def restore(self, like: RunState, step: int | None = None) -> SavedRun | None:
        """Reads a checkpoint.

        Args:
            like: A state of the same run; defines structure, shapes, dtypes and placement.
            step: The step of the checkpoint; by default the newest.

        Returns:
            Its content; None if there is no checkpoint.

        Raises:
            CheckpointError: If the checkpoint belongs to another run or cannot be read.
        """
        if not self.steps:
            return None
        step = self.steps[-1] if step is None else step
        meta = self._read_meta(step)
        check_layout(self.folder / str(step), meta["layout"], state_layout(like))
        # Shapes and placement only: orbax then creates the arrays directly where they belong.
        abstract = jax.tree.map(self._orbax.utils.to_shape_dtype_struct, _stored_arrays(like))
        args = self._orbax.args
        with self._damage_errors(step):
            items = args.Composite(state=args.StandardRestore(abstract))
            restored: Any = self._manager.restore(step, args=items)
        # Empty arrays are not stored; they are taken from the given state.
        leaves = [restored.state.get(path, leaf) for path, leaf in _arrays_by_path(like).items()]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        with self._damage_errors(step):
            check_checksums(state_checksums(state), meta["checksums"])
            records = _read_records(meta)
        return SavedRun(state, step, records, meta["seconds"])

    def _read_meta(self, step: int) -> dict[str, Any]:
        args = self._orbax.args
        with self._damage_errors(step):
            _check_file_sizes(self.folder / str(step))
            items = args.Composite(meta=args.JsonRestore())
            restored: Any = self._manager.restore(step, args=items)
            meta = restored.meta
            check_type(dict[str, Any], meta, "meta")
            for name, kind in META_TYPES.items():
                check_type(kind, meta.get(name), name)
            if meta.get("checksum") != _meta_checksum(meta):
                raise ValueError("its records do not match their checksum")
            return meta

    def _damage_errors(self, step: int) -> "_CheckpointErrors":
        others = [other for other in self.steps if other != step]
        advice = f"remove this folder to resume from step {others[-1]}" if others else "it is lost"
        return _CheckpointErrors(f"the checkpoint {self.folder / str(step)} is damaged ({advice})")


class _CheckpointErrors:
    """A context manager that turns any exception into a `CheckpointError` of one line."""

    def __init__(self, beginning: str) -> None:
        self._beginning = beginning

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, CheckpointError):
            raise CheckpointError(f"{self._beginning}: {_error_reason(error)}") from error


def _error_reason(error: Exception) -> str:
    """The cause of an error in one line; for disk errors, the operating system's message."""
    text = str(error).strip()
    # TensorStore reports errors of the operating system in the text only.
    code = re.search(r"os_error_code='(\d+)'", text)
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    summary = text.partition("[tensorstore_spec")[0].strip()  # a page of JSON follows
    return summary.splitlines()[0] if summary else type(error).__name__


def _check_file_sizes(folder: Path) -> None:
    """Checks the files of a checkpoint that are read as a whole: all but those of the arrays.

    Raises:
        ValueError: If one is larger than ``META_LIMIT``.
    """
    for path in folder.rglob("*"):
        # Arrays lie in folders called "d".
        is_array = "d" in path.relative_to(folder).parts
        if not is_array and path.is_file() and path.stat().st_size > META_LIMIT:
            raise ValueError(f"{path.name} takes more than {META_LIMIT // MIB} MiB of the disk")


def _read_records(meta: dict[str, Any]) -> tuple[EpochRecord, ...]:
    return tuple(dataclass_from_json(EpochRecord, json.loads(record)) for record in meta["records"])


def _arrays_by_path(state: RunState) -> dict[str, jax.Array]:
    """All arrays by their paths, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _stored_arrays(state: RunState) -> dict[str, jax.Array]:
    """The arrays that are written: all but empty ones, which orbax does not accept."""
    return {path: leaf for path, leaf in _arrays_by_path(state).items() if leaf.size}


def state_layout(state: RunState) -> dict[str, str]:
    """Dtype and shape of every array, by its path."""
    return {
        path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in _arrays_by_path(state).items()
    }


def state_checksums(state: RunState) -> dict[str, int]:
    """The CRC-32 of every array, by its path.

    Neither orbax nor its file format detects a flipped bit. The call waits for the arrays and
    copies those that are not in host memory.
    """

    def raw_bytes(leaf: jax.Array) -> np.ndarray:
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)  # keys have no bytes
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    return {path: zlib.crc32(raw_bytes(leaf).data) for path, leaf in _stored_arrays(state).items()}


def check_checksums(found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Checks that arrays are those that were written.

    Raises:
        ValueError: If one is not; names the first such array.
    """
    wrong = [path for path, checksum in found.items() if expected.get(path) != checksum]
    if wrong:
        raise ValueError(f"{wrong[0]} does not match the checksum that was written with it")


def _meta_checksum(meta: dict[str, Any]) -> int:
    """The CRC-32 of all entries but the checksum itself."""
    content = {name: value for name, value in meta.items() if name != "checksum"}
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def check_layout(folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Checks that the layout of a checkpoint is the expected one.

    Raises:
        CheckpointError: If it is not; names the first array that differs.
    """
    if found == expected:
        return
    path = next(path for path in {**expected, **found} if found.get(path) != expected.get(path))
    raise CheckpointError(
        f"the checkpoint {folder} is of another network or optimizer: {path} is "
        f"{found.get(path, 'absent')} there, {expected.get(path, 'absent')} here."
    )
