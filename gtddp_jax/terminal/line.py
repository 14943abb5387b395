"""Slopes of the true loss along the gradient (DESIGN §4)."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from gtddp_jax.core.types import PerSample
from gtddp_jax.terminal.base import Expansion, Line, Outputs, PerSampleLoss, Terminal, line_of


@dataclasses.dataclass(frozen=True)
class Slopes(Expansion):
    """psi' itself, with the shift of the outputs and the slope bounded."""

    line: Line
    curvature: PerSample
    max_shift: float | None
    bounds: tuple[float, float] | None

    def _bounded(self, s: PerSample) -> PerSample:
        if self.max_shift is None:
            return s
        reach = self.max_shift * self.line.norm
        return jnp.clip(s, -reach, reach)

    def slope(self, s: PerSample) -> PerSample:
        """See `Expansion`."""
        slope = self.line.along(self._bounded(s))[1]
        return slope if self.bounds is None else jnp.clip(slope, *self.bounds)

    def slope_and_bend(self, s: PerSample) -> tuple[PerSample, PerSample]:
        """See `Expansion`; the bend is 0 beyond a bound."""
        bounded = self._bounded(s)
        slope, bend = self.line.slope_and_bend(bounded)
        inside = bounded == s
        if self.bounds is not None:
            inside &= (slope > self.bounds[0]) & (slope < self.bounds[1])
            slope = jnp.clip(slope, *self.bounds)
        return slope, jnp.where(inside, bend, 0.0)

    def change(self, s: PerSample) -> PerSample:
        """See `Expansion`."""
        return self.line.along(self._bounded(s))[0] - self.line.value


@dataclasses.dataclass(frozen=True)
class line(Terminal):  # noqa: N801  (a constructor)
    """Weights are slopes of the true loss; for a convex loss they saturate instead of exploding.

    Args:
        max_shift: how far, in units of the outputs (Euclidean norm), the outputs of a sample may
            be assumed to move; None for no bound.
        bounds: smallest and largest slope, 0 <= smallest < 1 < largest; None for no bounds. They
            bound the weights. The predicted change of the loss is not bounded by them.

    Raises:
        ValueError: `max_shift` is not positive, or `bounds` are no such pair.

    Example:
        >>> import gtddp_jax as gt
        >>> terminal = gt.terminal.line(max_shift=1.0)
    """

    max_shift: float | None = 1.0
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.max_shift is not None and not self.max_shift > 0:
            raise ValueError(
                f"terminal.line(max_shift={self.max_shift!r}): give a number > 0, or None."
            )
        if self.max_shift == math.inf:
            object.__setattr__(self, "max_shift", None)
        if self.bounds is not None and not _pair(self.bounds):
            raise ValueError(
                f"terminal.line(bounds={self.bounds!r}): give (smallest, largest) with "
                "0 <= smallest < 1 < largest, for example (0.02, 10.0), or None."
            )

    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> Slopes:
        """See `Terminal`."""
        along = line_of(loss, outputs)
        return Slopes(along, jnp.maximum(along.bend(), 0.0), self.max_shift, self.bounds)


def _pair(bounds: Any) -> bool:
    try:
        low, high = bounds
        return bool(0 <= low < 1 < high)
    except (TypeError, ValueError):
        return False
