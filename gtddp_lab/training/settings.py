"""Settings of a run from which its optimizers are built."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import optax

import gtddp_jax as gt
from gtddp_jax.sequential import ROLLOUTS
from gtddp_lab.core.bounds import check_real
from gtddp_lab.core.look_up import look_up

MOST_EPOCHS, MOST_SEEDS = 10**6, 10**4
"""Largest numbers of epochs and of seeds of a run; its results are kept in memory."""

MOST_STEPS = 2**31 - 1
"""Largest number of steps of a run, which are counted in 32 bits."""

LARGEST_SEED = 2**32 - 1
"""Largest seed of a run, which is part of its state in 32 bits."""

SMALLEST_FACTOR, LARGEST_FACTOR = 1e-30, 1e30
"""Bounds of rates, decays and shifts, within the numbers that float32 and bfloat16 represent."""

LearningRate = float | optax.Schedule
"""A learning rate: a number, or a function of the number of steps taken."""

SCHEDULES: dict[str, Callable[[float, int], LearningRate]] = {
    "constant": lambda rate, steps: rate,
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
    "step": lambda rate, steps: optax.piecewise_constant_schedule(
        rate, {steps // 2: 0.1, 3 * steps // 4: 0.1}
    ),
}
"""Learning rate schedules by name: functions of the initial rate and the steps of the whole run.

Constant; down to 0 along half a cosine; divided by 10 after 1/2 and again after 3/4 of the steps.
"""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a method's optimizer; every method uses the first three.

    Attributes:
        learning_rate: Step size, positive.
        schedule: Key in ``SCHEDULES``.
        weight_decay: Factor of the running cost, half the squared norm of all parameters; at least
            0. Its gradient is added to the gradient of the loss before the optimizer sees it.
        rollout: Sequential game: key in ``gtddp_jax.sequential.ROLLOUTS``.
        terminal: Sequential game: key in ``gt.terminal.TERMINALS``.
        max_shift: Sequential game with terminal ``exact_loss``: largest predicted shift of the
            outputs, in units of the outputs; positive, ``inf`` for no limit.
        self_response: Sequential game: whether a stage also responds to its own step.
        weighting: Implicit game: key in ``gt.weighting.WEIGHTINGS``.
    """

    learning_rate: float
    schedule: str = "constant"
    weight_decay: float = 0.0
    rollout: str = "linear"
    terminal: str = "exact_loss"
    max_shift: float = 1.0
    self_response: bool = False
    weighting: str = "sketch"

    def __post_init__(self) -> None:
        """Checks names and ranges.

        Raises:
            ValueError: If a name is unknown or a number is out of range.
        """
        check_real("learning_rate", self.learning_rate, SMALLEST_FACTOR, LARGEST_FACTOR)
        look_up(SCHEDULES, self.schedule, "schedule")
        check_real("weight_decay", self.weight_decay, SMALLEST_FACTOR, LARGEST_FACTOR, or_zero=True)
        check_real("max_shift", self.max_shift, SMALLEST_FACTOR, math.inf)
        if not isinstance(self.self_response, bool):
            raise ValueError(f"self_response must be true or false, got {self.self_response!r}.")
        look_up(ROLLOUTS, self.rollout, "rollout")
        look_up(gt.terminal.TERMINALS, self.terminal, "terminal")
        look_up(gt.weighting.WEIGHTINGS, self.weighting, "weighting")

    def scheduled_rate(self, steps: int) -> LearningRate:
        """The learning rate over a run of ``steps`` steps."""
        return SCHEDULES[self.schedule](self.learning_rate, steps)
