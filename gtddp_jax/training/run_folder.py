"""A run's folder: what lies where, and that one process at a time writes to it.

config.yaml      every option, as it came to be; itself a valid --config
results.json     scores of every epoch; where they come from
network.json     the game: stages, players, shapes
watched.json     the images whose weights are watched
metrics.jsonl    figures between epochs
tensorboard/     the same as event files
checkpoints/     METHOD/seed-N/STEP
curves.png, curves.svg, report.html
"""

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from gtddp_jax.training.records import Unit


class RunFolderError(Exception):
    """A run folder cannot be used; its text is one line."""


class RunFolder:
    """The paths of a run.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        """Makes nothing."""
        self.path = path

    @property
    def config(self) -> Path:
        """The resolved options."""
        return self.path / "config.yaml"

    @property
    def results(self) -> Path:
        """The results file."""
        return self.path / "results.json"

    @property
    def network(self) -> Path:
        """The game, described."""
        return self.path / "network.json"

    @property
    def watched(self) -> Path:
        """The images whose weights are watched."""
        return self.path / "watched.json"

    @property
    def report(self) -> Path:
        """The report as a page."""
        return self.path / "report.html"

    def curves(self, kind: str) -> Path:
        """The picture, of kind "png" or "svg"."""
        return self.path / f"curves.{kind}"

    def checkpoints(self, unit: Unit) -> Path:
        """The folder of a unit's checkpoints."""
        return self.path / "checkpoints" / unit.folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder.

        Raises:
            RunFolderError: If one does already, or the folder cannot be written.
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
            os.close(handle)  # the lock goes with it, also when the process is killed


def new_folder(parent: Path, stem: str) -> RunFolder:
    """Makes a folder that was not there before, named after the time.

    Raises:
        RunFolderError: If it cannot be made.
    """
    stem = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
                return RunFolder(folder)
            except FileExistsError:
                continue
    except OSError as error:
        raise RunFolderError(f"cannot write to {parent}: {error.strerror}") from error
    raise AssertionError("unreachable: count() does not end")


def existing_folder(path: Path) -> RunFolder:
    """The folder of a run that has been started before.

    Raises:
        RunFolderError: If it is none.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise RunFolderError(f"{path} is not the folder of a run: it has no config.yaml.")
    check_links(path)
    return folder


def check_links(path: Path) -> None:
    """Checks that nothing in a run's folder is elsewhere, where it would be read or overwritten.

    Raises:
        RunFolderError: If a link leads out of it.
    """
    inside = path.resolve()
    for place, folders, files in os.walk(path):  # does not follow links
        for name in [*folders, *files]:
            part = Path(place) / name
            if part.is_symlink() and not part.resolve().is_relative_to(inside):
                raise RunFolderError(f"{part} is a link out of the run's folder; it is not used.")
