"""The folder of a run: where files are, and a lock that admits one writing process.

config.yaml      all options, resolved; can be passed as --config
results.json     scores of every epoch, and provenance
network.json     the game: stages, players, shapes
watched.json     the images whose weights are watched
metrics.jsonl    log between epochs
tensorboard/     the same log as event files
checkpoints/     METHOD/seed-N/STEP
curves.png, curves.svg, report.html
"""

import fcntl
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from gtddp_lab.training.records import TrainingUnit


class RunFolderError(Exception):
    """A run folder cannot be used; the message is one line."""


class RunFolder:
    """The paths of a run.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        """Creates nothing."""
        self.path = path

    @property
    def config_file(self) -> Path:
        """The resolved options."""
        return self.path / "config.yaml"

    @property
    def results_file(self) -> Path:
        """The results."""
        return self.path / "results.json"

    @property
    def network_file(self) -> Path:
        """The description of the game."""
        return self.path / "network.json"

    @property
    def watched_file(self) -> Path:
        """The images whose weights are watched."""
        return self.path / "watched.json"

    @property
    def report_file(self) -> Path:
        """The report as an HTML page."""
        return self.path / "report.html"

    def curves_file(self, kind: str) -> Path:
        """The picture of the curves; ``kind`` is "png" or "svg"."""
        return self.path / f"curves.{kind}"

    def checkpoint_folder(self, unit: TrainingUnit) -> Path:
        """The folder of a unit's checkpoints."""
        return self.path / "checkpoints" / unit.folder_name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder.

        Raises:
            RunFolderError: If another process holds the lock, or the folder cannot be written.
        """
        try:
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunFolderError(f"cannot write to {self.path}: {error.strerror}.") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(f"another process is writing to {self.path}.") from error
            yield
        finally:
            os.close(handle)  # releases the lock; so does the death of the process


def new_folder(parent: Path, stem: str) -> RunFolder:
    """Creates a new folder, named after the current time.

    Raises:
        RunFolderError: If it cannot be created.
    """
    stem = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                # mkdir is atomic: two runs that start in the same second get different folders.
                folder.mkdir()
                return RunFolder(folder)
            except FileExistsError:
                continue  # with the next number
    except OSError as error:
        raise RunFolderError(f"cannot write to {parent}: {error.strerror}") from error
    raise AssertionError("unreachable: count() does not end")


def existing_folder(path: Path) -> RunFolder:
    """Opens the folder of an earlier run.

    Raises:
        RunFolderError: If it is not the folder of a run.
    """
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        raise RunFolderError(f"{path} is not the folder of a run: it has no config.yaml.")
    check_entries(path)
    return folder


def check_entries(path: Path) -> None:
    """Checks that a run's folder holds only files, folders, and links that stay inside.

    The target of a link that leads out would be read or overwritten like a file of the run. Opening
    a named pipe or a device could wait for ever.

    Raises:
        RunFolderError: If it holds anything else.
    """
    inside = path.resolve()
    for parent, folders, files in os.walk(path):  # does not follow links
        for name in [*folders, *files]:
            entry = Path(parent) / name
            if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
                raise RunFolderError(f"{entry} is a link out of the run's folder; it is not used.")
            mode = entry.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise RunFolderError(
                    f"{entry} is neither a file nor a folder; no run writes such an entry. Remove "
                    "it to use the run."
                )
