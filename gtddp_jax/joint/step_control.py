"""How far to go along the direction of the joint step.

| name         | length                                                                      |
|--------------|-----------------------------------------------------------------------------|
| `LineSearch` | the best of 1, 1/2, 1/4, ... by the objective on the batch                  |
| `FixedRate`  | `min(rate, sqrt(norm_constraint) / |d|)`, as SPRING has it                  |
| `SwitchStep` | the first rule until a given step, the second from then on                  |

A rule also says which part of the step is remembered as momentum.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Count, Number, Rate, Scalar

__all__ = ["FixedRate", "LineSearch", "StepLength", "StepRule", "SwitchStep"]

ObjectiveAlong: TypeAlias = Callable[[Scalar], Scalar]


class StepLength(NamedTuple):
    """What a rule decides.

    Attributes:
        length: factor on the direction.
        remembered: factor on the direction in the momentum of the next step.
    """

    length: Scalar
    remembered: Scalar


class StepRule(abc.ABC):
    """A rule for the length of the step: immutable."""

    @abc.abstractmethod
    def step_length(
        self, objective_along: ObjectiveAlong, start: Scalar, norm: Scalar, count: Count
    ) -> StepLength:
        """The length of this step.

        Args:
            objective_along: length -> objective on the batch.
            start: the objective at length 0.
            norm: Euclidean norm of the direction.
            count: number of steps so far.
        """


@dataclasses.dataclass(frozen=True)
class LineSearch(StepRule):
    """The best length among powers of one half; 0 if none lowers the objective.

    Lengths are tried from 1 down, until one is worse than the one before it. Momentum remembers
    the step that was taken.

    Args:
        halvings: smallest length is `2^-halvings`.

    Example:
        >>> import gtddp_jax as gt
        >>> rule = gt.step_control.LineSearch(halvings=20)
    """

    halvings: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.halvings, int) or self.halvings < 0:
            raise ValueError(f"step_control.{self}: halvings must be an int >= 0.")

    @override
    def step_length(
        self, objective_along: ObjectiveAlong, start: Scalar, norm: Scalar, count: Count
    ) -> StepLength:
        del norm, count

        def unfinished(search: tuple[jax.Array, ...]) -> jax.Array:
            power, _, length, improved = search
            return (power <= self.halvings) & (improved | (length == 0))

        def try_half(search: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            power, best, length, _ = search
            half = jnp.exp2(-power.astype(start.dtype))
            value = objective_along(half)
            improved = value < best
            return (
                power + 1,
                jnp.where(improved, value, best),
                jnp.where(improved, half, length),
                improved,
            )

        first = (jnp.int32(0), start, jnp.zeros_like(start), jnp.array(True))
        _, _, length, _ = jax.lax.while_loop(unfinished, try_half, first)
        return StepLength(length, length)


@dataclasses.dataclass(frozen=True)
class FixedRate(StepRule):
    """A rate, shortened so that the step is no longer than `sqrt(norm_constraint)`.

    Momentum remembers the whole direction, as in SPRING (Goldshlager et al. 2024).

    Args:
        rate: a number or an optax schedule.
        norm_constraint: bound on the squared norm of the step, or None.

    Example:
        >>> import gtddp_jax as gt
        >>> rule = gt.step_control.FixedRate(0.05, norm_constraint=1e-3)
    """

    rate: Rate
    norm_constraint: Number | None = None

    @override
    def step_length(
        self, objective_along: ObjectiveAlong, start: Scalar, norm: Scalar, count: Count
    ) -> StepLength:
        del objective_along
        rate = jnp.asarray(self.rate(count) if callable(self.rate) else self.rate, start.dtype)
        if self.norm_constraint is not None:
            longest = jnp.sqrt(self.norm_constraint) / jnp.where(norm > 0, norm, 1.0)
            rate = jnp.minimum(rate, longest.astype(start.dtype))
        return StepLength(rate, jnp.ones_like(rate))


@dataclasses.dataclass(frozen=True)
class SwitchStep(StepRule):
    """One rule at first, another later.

    With fresh batches a line search is fastest at the start, and a fixed or decaying rate ends
    lower, because a line search fits the noise of each batch.

    Args:
        first: rule of the steps before `at`.
        then: rule from step `at` on; an optax schedule in it counts from 0 at the switch.
        at: number of steps under `first`.

    Example:
        >>> import gtddp_jax as gt
        >>> control = gt.step_control
        >>> rule = control.SwitchStep(control.LineSearch(), control.FixedRate(0.05), at=50)
    """

    first: StepRule
    then: StepRule
    at: int

    @override
    def step_length(
        self, objective_along: ObjectiveAlong, start: Scalar, norm: Scalar, count: Count
    ) -> StepLength:
        return jax.lax.cond(
            count < self.at,
            lambda: self.first.step_length(objective_along, start, norm, count),
            lambda: self.then.step_length(objective_along, start, norm, count - self.at),
        )
