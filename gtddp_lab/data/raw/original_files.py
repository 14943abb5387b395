"""Find the files of a data set, read them within bounds and compare them with the originals."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from gtddp_lab.data.dataset import DataError

MAX_BYTES = 2**30
"""Largest decompressed size of all files of a data set together; the largest original has half."""

MOST_MEMBERS = 10_000
"""Largest number of files and folders in an archive; an original has fewer than twenty."""


@dataclass(frozen=True)
class OriginalFile:
    """One file of the original distribution of a data set.

    Attributes:
        name: File name.
        size: Bytes of its decompressed content; None to skip the comparison.
        md5: Checksum of its decompressed content; None if it is not known for certain.
        required: Whether the data set cannot be read without it.
    """

    name: str
    size: int | None = None
    md5: str | None = None
    required: bool = True


@dataclass(frozen=True)
class Distribution:
    """All files in which a data set is published.

    They may lie in a folder or its subfolder, each optionally compressed by gzip, or in an archive,
    which is read without being extracted.

    Attributes:
        files: The files.
        subfolder: Folder inside the archive; None without an archive.
        archive: Name of the ``.tar.gz`` archive.
        archive_md5: Checksum of the archive.
    """

    files: tuple[OriginalFile, ...]
    subfolder: str | None = None
    archive: str | None = None
    archive_md5: str | None = None

    def find(self, folder: Path) -> Path | None:
        """Return the folder, subfolder or archive with the files; None if there is none."""
        subfolder = folder / self.subfolder if self.subfolder else folder
        for place in dict.fromkeys((folder, subfolder)):
            if any(_existing_file(place, file) for file in self.files if file.required):
                return place
        archive = folder / self.archive if self.archive else None
        return archive if archive and archive.is_file() else None

    def read(self, folder: Path, custom_data: bool) -> dict[str, bytes]:
        """Read the contents of the files, by name; optional files may be missing.

        Args:
            folder: A folder in which ``find`` finds the files.
            custom_data: Whether the files may hold other data in the same format. Otherwise their
                sizes and checksums must be those of the originals.

        Raises:
            DataError: If a file is missing, corrupt, truncated, hostile, or not the original.
        """
        source = self.find(folder)
        assert source is not None, "the caller found the files"
        with errors_naming_path(source):
            read = self._read_folder if source.is_dir() else self._read_archive
            contents = read(source, custom_data)
        for file in self.files:
            if file.name not in contents and file.required:
                raise DataError(f"{source}: {file.name} is missing.")
            if file.name in contents and not custom_data:
                _check_original(f"{source}: {file.name}", contents[file.name], file.size, file.md5)
        return contents

    def _read_folder(self, folder: Path, custom_data: bool) -> dict[str, bytes]:
        contents = {}
        for file in self.files:
            path = _existing_file(folder, file)
            if path is not None:
                with errors_naming_path(path), _open_file(path) as stream:
                    limit = _size_limit(file, custom_data, contents)
                    contents[file.name] = _read_bounded(stream, path, limit)
        return contents

    def _read_archive(self, archive: Path, custom_data: bool) -> dict[str, bytes]:
        wanted = {f"{self.subfolder}/{file.name}": file for file in self.files}
        contents: dict[str, bytes] = {}
        _check_disk_size(archive)
        with gzip.open(archive) as stream:
            limited = _LimitedStream(stream, archive)
            # Stream mode ("|") never seeks, so the limit holds for every byte.
            with tarfile.open(fileobj=limited, mode="r|") as members:  # type: ignore[call-overload]
                for number, member in enumerate(members, 1):
                    if number > MOST_MEMBERS:
                        raise DataError(
                            f"{archive}: refused because it has more than {MOST_MEMBERS} members."
                        )
                    name = _checked_member_name(archive, member)
                    file = wanted.get(name)
                    if file is None or not member.isfile():
                        continue
                    if file.name in contents:
                        raise DataError(f"{archive}: holds {name} twice.")
                    content = members.extractfile(member)
                    assert content is not None, "isfile() was checked"
                    label = f"{archive}: {name}"
                    limit = _size_limit(file, custom_data, contents)
                    contents[file.name] = _read_bounded(content, label, limit)
            while limited.read(2**20):
                pass  # gzip compares its checksum only at the end of the stream
        if not custom_data and self.archive_md5 is not None:
            _check_original(str(archive), archive.read_bytes(), None, self.archive_md5)
        return contents


@contextmanager
def errors_naming_path(path: object) -> Iterator[None]:
    """Convert errors raised while ``path`` is read to a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except (EOFError, tarfile.ReadError, zlib.error) as error:
        raise DataError(f"{path}: is truncated or corrupt ({error}).") from error
    except gzip.BadGzipFile as error:
        raise DataError(f"{path}: is corrupt or not a gzip file ({error}).") from error
    except tarfile.TarError as error:
        raise DataError(f"{path}: is corrupt ({error}).") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _existing_file(folder: Path, file: OriginalFile) -> Path | None:
    """Return the file in ``folder``, plain or compressed; None if there is none."""
    places = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in places if path.is_file()), None)


def _open_file(path: Path) -> IO[bytes]:
    _check_disk_size(path)
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _check_disk_size(path: Path) -> None:
    """Check the size on disk: gzip skips zeros behind its data, of which a sparse file has any."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path}: has {size} bytes, a data set at most {MAX_BYTES} in all.")


def _size_limit(file: OriginalFile, custom_data: bool, contents: Mapping[str, bytes]) -> int:
    """The most bytes that a file may have beside those that were read before."""
    left = MAX_BYTES - sum(map(len, contents.values()))
    return left if custom_data or file.size is None else min(left, file.size)


def _read_bounded(stream: IO[bytes], label: object, limit: int) -> bytes:
    # One byte more than allowed suffices to detect an oversized file.
    content = stream.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{label}: holds more than the allowed {limit} bytes.")
    return content


def _check_original(label: str, content: bytes, size: int | None, md5: str | None) -> None:
    """Check that a content is the original, as far as its size and checksum are known."""
    # MD5 detects damage here; it is no protection against forgery.
    hint = "For other data in the same format add --own."
    if size is not None and len(content) != size:
        raise DataError(
            f"{label}: has {len(content)} bytes, the original {size}: truncated, or another file. "
            f"{hint}"
        )
    if md5 is not None:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(
                f"{label}: is not the original (md5 {found} instead of {md5}): corrupt, or another "
                f"file. {hint}"
            )


def _checked_member_name(archive: Path, member: tarfile.TarInfo) -> str:
    """Return the name of a member; refuse members that no honest image archive contains."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive}: refused because {member.name!r} leads outside of it.")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise DataError(f"{archive}: refused because {member.name!r} is not a file or folder.")
    if not 0 <= member.size <= MAX_BYTES:
        raise DataError(f"{archive}: refused because {member.name!r} claims {member.size} bytes.")
    return str(path)


class _LimitedStream:
    """A stream limited to ``MAX_BYTES``, because a small archive can decompress to terabytes."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, MAX_BYTES

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(
                f"{self._path}: refused because it decompresses to more than {MAX_BYTES} bytes."
            )
        return content
