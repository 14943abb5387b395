"""Finding a data set's files, reading them within bounds, and comparing them with the originals."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from gtddp_jax.training.data.dataset import DataError

MAX_BYTES = 2**31
"""The most that is read from one file or archive, decompressed."""


@dataclass(frozen=True)
class File:
    """One file of a data set's original distribution.

    Attributes:
        name: Its name.
        size: Bytes of its content, decompressed; None for a file that is not compared.
        md5: Checksum of its content, decompressed; None where none is known for certain.
        required: Whether the set cannot be read without it.
    """

    name: str
    size: int | None = None
    md5: str | None = None
    required: bool = True


@dataclass(frozen=True)
class Distribution:
    """The files in which a data set is published, together.

    They may lie in a folder directly, each alone compressed by gzip or not, in a subfolder, or in
    an archive, which is read and never extracted.

    Attributes:
        files: The files.
        subfolder: The folder that the archive holds; None where there is no archive.
        archive: Name of the ``.tar.gz`` archive.
        archive_md5: Checksum of the archive.
    """

    files: tuple[File, ...]
    subfolder: str | None = None
    archive: str | None = None
    archive_md5: str | None = None

    def find(self, folder: Path) -> Path | None:
        """Returns the subfolder or archive of ``folder``, or itself, that has the files, if any."""
        subfolder = folder / self.subfolder if self.subfolder else folder
        for place in dict.fromkeys((folder, subfolder)):
            if any(_lying(place, file) for file in self.files if file.required):
                return place
        archive = folder / self.archive if self.archive else None
        return archive if archive and archive.is_file() else None

    def read(self, folder: Path, own: bool) -> dict[str, bytes]:
        """Reads the files' contents, by name; those that are not required may be absent.

        Args:
            folder: A folder in which ``find`` finds the files.
            own: Whether they may be other data in the same format; otherwise sizes and checksums
                must be those of the originals.

        Raises:
            DataError: If a file is missing, corrupt, cut off, hostile, or not the original.
        """
        place = self.find(folder)
        assert place is not None, "the caller has found the files"
        with named_errors(place):
            contents = self._from_folder(place, own) if place.is_dir() else self._unpack(place, own)
        for file in self.files:
            if file.name not in contents and file.required:
                raise DataError(f"{place}: {file.name} is missing.")
            if file.name in contents and not own:
                _compare(f"{place}: {file.name}", contents[file.name], file.size, file.md5)
        return contents

    def _from_folder(self, folder: Path, own: bool) -> dict[str, bytes]:
        contents = {}
        for file in self.files:
            path = _lying(folder, file)
            if path is not None:
                with named_errors(path), _opened(path) as stream:
                    contents[file.name] = _bounded(stream, path, _limit(file, own))
        return contents

    def _unpack(self, archive: Path, own: bool) -> dict[str, bytes]:
        wanted = {f"{self.subfolder}/{file.name}": file for file in self.files}
        contents: dict[str, bytes] = {}
        with gzip.open(archive) as stream:
            limited = _Limited(stream, archive)
            with tarfile.open(fileobj=limited, mode="r|") as members:  # type: ignore[call-overload]
                for member in members:
                    name = _safe_name(archive, member)
                    file = wanted.get(name)
                    if file is None or not member.isfile():
                        continue
                    if file.name in contents:
                        raise DataError(f"{archive}: holds {name} twice.")
                    content = members.extractfile(member)
                    assert content is not None, "the member is a file"
                    label = f"{archive}: {name}"
                    contents[file.name] = _bounded(content, label, _limit(file, own))
            while limited.read(2**20):
                pass  # to the end, where gzip compares its own checksum
        if not own and self.archive_md5 is not None:
            _compare(str(archive), archive.read_bytes(), None, self.archive_md5)
        return contents


@contextmanager
def named_errors(path: object) -> Iterator[None]:
    """Turns what reading ``path`` may raise into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except (EOFError, tarfile.ReadError, zlib.error) as error:
        raise DataError(f"{path}: is cut off or corrupt ({error}).") from error
    except gzip.BadGzipFile as error:
        raise DataError(f"{path}: is corrupt, no gzip file or a damaged one ({error}).") from error
    except tarfile.TarError as error:
        raise DataError(f"{path}: is corrupt ({error}).") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _lying(folder: Path, file: File) -> Path | None:
    """The file itself or its gzip form in ``folder``, if there is one."""
    places = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in places if path.is_file()), None)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _limit(file: File, own: bool) -> int:
    return MAX_BYTES if own or file.size is None else file.size


def _bounded(stream: IO[bytes], label: object, limit: int) -> bytes:
    content = stream.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{label}: holds more than the {limit} bytes that it may have.")
    return content


def _compare(label: str, content: bytes, size: int | None, md5: str | None) -> None:
    """Checks that a content is that of the original, as far as this is known."""
    hint = "For other data in the same format say so (--own)."
    if size is not None and len(content) != size:
        raise DataError(
            f"{label}: {len(content)} bytes, the original has {size}: cut off, or another file. "
            f"{hint}"
        )
    if md5 is not None:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(
                f"{label}: is not the original (md5 {found}, the original's is {md5}): corrupt, or "
                f"another file. {hint}"
            )


def _safe_name(archive: Path, member: tarfile.TarInfo) -> str:
    """The member's name; refuses what an honest archive of images does not hold."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive}: refused, because {member.name!r} leads outside of it.")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise DataError(f"{archive}: refused, because {member.name!r} is no plain file or folder.")
    if not 0 <= member.size <= MAX_BYTES:
        raise DataError(f"{archive}: refused, because {member.name!r} claims {member.size} bytes.")
    return str(path)


class _Limited:
    """A stream that refuses to give more than ``MAX_BYTES``: a small archive can hold much."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, MAX_BYTES

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(f"{self._path}: refused, because it unpacks to over {MAX_BYTES} bytes.")
        return content
