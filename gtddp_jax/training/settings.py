"""What optimizers are built from: numbers and names that a run is told."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax

import gtddp_jax as gt
from gtddp_jax.optimizer import BOUNDS
from gtddp_jax.training.tables import look_up

TERMINALS: dict[str, Callable[[float], Any]] = {
    "line": lambda max_shift: gt.terminal.line(
        None if math.isinf(max_shift) else max_shift, BOUNDS
    ),
    "projected": lambda max_shift: gt.terminal.projected(),
    "gradient": lambda max_shift: gt.terminal.gradient(),
}
"""Terminal models by name, each a function of the maximal shift (only ``line`` has one)."""

ROLLOUTS = ("linear", "nonlinear")

Rate = float | optax.Schedule
"""A learning rate: a number, or a function of the steps taken so far."""

SCHEDULES: dict[str, Callable[[float, int], Rate]] = {
    "constant": lambda rate, steps: rate,
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
    "step": lambda rate, steps: optax.piecewise_constant_schedule(
        rate, {steps // 2: 0.1, 3 * steps // 4: 0.1}
    ),
}
"""Learning rates over a whole run of so many steps, by name: as it is; down to 0 along half a
cosine; a tenth of it after one half and again after three quarters."""


@dataclass(frozen=True)
class Settings:
    """What a method's optimizer is built from; all methods read the first three.

    Attributes:
        learning_rate: Step size, positive.
        schedule: Key in ``SCHEDULES``; what becomes of the step size.
        weight_decay: Factor of the running cost, half the sum of all parameters' squares; its
            gradient is added to that of the loss before the optimizer sees it. From 0 on.
        rollout: Of the sequential game: one of ``ROLLOUTS``.
        terminal: Of the sequential game: key in ``TERMINALS``.
        max_shift: How far the sequential game's terminal model ``line`` may assume the outputs to
            move, in units of the outputs; positive, ``inf`` for no limit.
        own_curvature: Of the sequential game: whether a stage answers to its own step too.
        weights: Of the implicit game: key in ``gt.weights.WEIGHTS``.
    """

    learning_rate: float
    schedule: str = "constant"
    weight_decay: float = 0.0
    rollout: str = "linear"
    terminal: str = "line"
    max_shift: float = 1.0
    own_curvature: bool = False
    weights: str = "tail"

    def __post_init__(self) -> None:
        """Checks names and ranges.

        Raises:
            ValueError: If a name is unknown or a number out of range.
        """
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate must be positive and finite, got {self.learning_rate}."
            )
        look_up(SCHEDULES, self.schedule, "schedule")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"weight_decay must be finite and at least 0, got {self.weight_decay}."
            )
        if not self.max_shift > 0:
            raise ValueError(f"max_shift must be positive, got {self.max_shift}.")
        if self.rollout not in ROLLOUTS:
            raise ValueError(
                f"Invalid rollout: {self.rollout!r}. Supported: {', '.join(ROLLOUTS)}."
            )
        look_up(TERMINALS, self.terminal, "terminal")
        look_up(gt.weights.WEIGHTS, self.weights, "weights")

    def rate(self, steps: int) -> Rate:
        """The learning rate over a run of ``steps`` steps."""
        return SCHEDULES[self.schedule](self.learning_rate, steps)
