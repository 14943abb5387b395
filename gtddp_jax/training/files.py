"""Files that are whole at every moment."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file; a reader sees the old one or the new one, never a part.

    Raises:
        OSError: If it cannot be written; the old file is still there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with part.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
