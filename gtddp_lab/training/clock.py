"""Measures where the time of a run goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

TIME_PARTS = ("loading", "compilation", "steps", "evaluation", "weights", "checkpoints", "batches")
"""Activities whose time is measured: reading data and building the trainers; compiling steps;
taking them; scoring; watching sample weights, with its compilation; waiting for checkpoints;
drawing the order of batches."""


class RunClock:
    """Accumulates wall time by method and activity.

    Attributes:
        seconds: ``{method: {part: seconds}}``; time that belongs to no single method is under "".

    Example:
        >>> clock = RunClock()
        >>> with clock.measure("adam", "evaluation"):
        ...     pass
        >>> clock.add_seconds("adam", "evaluation", 2.0)
        >>> clock.seconds["adam"]["evaluation"] >= 2.0
        True
    """

    def __init__(self) -> None:
        """Starts with no time."""
        self.seconds: dict[str, dict[str, float]] = {}

    def add_seconds(self, method: str, part: str, seconds: float) -> None:
        """Adds time to one activity of a method.

        Raises:
            ValueError: If ``part`` is not in ``TIME_PARTS``.
        """
        if part not in TIME_PARTS:
            raise ValueError(f"Invalid part: {part!r}. Supported: {', '.join(TIME_PARTS)}.")
        parts = self.seconds.setdefault(method, {})
        parts[part] = parts.get(part, 0.0) + seconds

    @contextmanager
    def measure(self, method: str, part: str) -> Iterator[None]:
        """Adds the time spent in the body, even if the body raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(method, part, time.perf_counter() - start)
