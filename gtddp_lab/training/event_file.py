"""TensorBoard event files, written without TensorFlow and without a thread.

The `SummaryWriter` of tensorboardX hands its events to a thread. On a full disk that thread ends,
and the training run then waits forever for room in its queue.
"""

import socket
import time
from pathlib import Path
from typing import Any

FLUSH_S = 120.0
"""Entries are written to disk at least this often, in seconds."""

FILE_VERSION = "brain.Event:2"
"""What TensorBoard expects in the first event of a file."""


class EventFile:
    """One event file, which the calling thread writes."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Creates a new file.

        Args:
            folder: Folder of the file; created if it is missing.
            purge_step: TensorBoard drops the entries of earlier files from this step on.

        Raises:
            OSError: If the file cannot be written.
        """
        # Slow to import, needed by runs only.
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        # The names of generated code are not known to type checkers.
        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files with such names, in their order.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._writer = RecordWriter(str(folder / name))
        self._flushed = time.monotonic()
        self._write(file_version=FILE_VERSION)
        if purge_step is not None:
            session = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(step=purge_step, file_version=FILE_VERSION)
            self._write(step=purge_step, session_log=session)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Adds a number.

        Raises:
            OSError: If it cannot be written.
        """
        number = self._summaries.Summary.Value(tag=tag, simple_value=value)
        self._write(step=step, summary=self._summaries.Summary(value=[number]))
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def _write(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Writes buffered entries to disk.

        Raises:
            OSError: If they cannot be written.
        """
        self._flushed = time.monotonic()
        self._writer.flush()

    def close(self) -> None:
        """Closes the file.

        Raises:
            OSError: If buffered entries cannot be written.
        """
        self._writer.close()
