"""Where a run's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("loading", "compilation", "steps", "evaluation", "weights", "checkpoints", "batches")
"""What time is spent on: reading data and building; compiling steps; taking them; scoring; watching
weights, its compilation included; waiting for checkpoints; drawing the order of batches."""


class Clock:
    """Wall time by method and part, added up.

    Attributes:
        seconds: ``{method: {part: seconds}}``; what no single method owns is under "".

    Example:
        >>> clock = Clock()
        >>> with clock.part("adam", "evaluation"):
        ...     pass
        >>> clock.add("adam", "evaluation", 2.0)
        >>> clock.seconds["adam"]["evaluation"] >= 2.0
        True
    """

    def __init__(self) -> None:
        """Starts at nothing."""
        self.seconds: dict[str, dict[str, float]] = {}

    def add(self, method: str, part: str, seconds: float) -> None:
        """Adds so many seconds.

        Raises:
            ValueError: If ``part`` is not in ``PARTS``.
        """
        if part not in PARTS:
            raise ValueError(f"Invalid part: {part!r}. Supported: {', '.join(PARTS)}.")
        parts = self.seconds.setdefault(method, {})
        parts[part] = parts.get(part, 0.0) + seconds

    @contextmanager
    def part(self, method: str, part: str) -> Iterator[None]:
        """Adds the time that its body takes, also where that raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(method, part, time.perf_counter() - start)
