"""How strongly the step is held back: the factor lambda on the proximal term.

| name                  | lambda                                                               |
|-----------------------|----------------------------------------------------------------------|
| a number, a schedule  | itself                                                               |
| `RelativeDamping`     | a ratio times the largest eigenvalue of the curvature in sample space |
| `LossDamping`         | a factor times the objective, never below a relative floor           |
| `LevenbergMarquardt`  | adapted to the gain ratio, never below a relative floor              |
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core import validation
from gtddp_jax.core.types import Count, Number, Rate, Scalar

__all__ = ["ConstantDamping", "Damping", "LevenbergMarquardt", "LossDamping", "RelativeDamping"]

DEFAULT_RATIO = {"float64": 1e-9, "float32": 1e-3}
"""Ratio of `RelativeDamping` by the dtype of the Gram matrix. In float64 1e-9 was better than 1e-8
and 1e-7 on three equations; in float32 rounding leaves no more accurate solution."""

DEFAULT_FLOOR = {"float64": 1e-12, "float32": 1e-3}
"""Floor of `LossDamping`, likewise; the system is still factorized there."""


class Damping(abc.ABC):
    """A rule for lambda: immutable; its state is one number."""

    def init(self) -> float:
        """The state before the first step."""
        return 0.0

    @abc.abstractmethod
    def value(self, state: Scalar, largest: Scalar, loss: Scalar, count: Count) -> Scalar:
        """Lambda of this step.

        Args:
            state: from `init` or `next_state`.
            largest: estimate of the largest eigenvalue of the undamped curvature.
            loss: the objective at the parameters, without further costs.
            count: number of steps so far.
        """

    def next_state(self, state: Scalar, damping: Scalar, gain_ratio: Scalar) -> Scalar:
        """The state after a step with this damping and gain ratio (actual / predicted)."""
        del damping, gain_ratio
        return state


@dataclasses.dataclass(frozen=True)
class ConstantDamping(Damping):
    """Lambda itself.

    Args:
        rate: a positive number, or an optax schedule of the step count.
    """

    rate: Rate

    @override
    def value(self, state: Scalar, largest: Scalar, loss: Scalar, count: Count) -> Scalar:
        del state, loss
        now = self.rate(count) if callable(self.rate) else self.rate
        return jnp.asarray(now, largest.dtype)


@dataclasses.dataclass(frozen=True)
class RelativeDamping(Damping):
    """Lambda as a ratio of the largest eigenvalue of the undamped curvature.

    Args:
        ratio: positive; None for the default of the Gram matrix's dtype, 1e-9 in float64 and 1e-3
            in float32.

    Example:
        >>> import gtddp_jax as gt
        >>> rule = gt.damping.RelativeDamping(1e-6)
    """

    ratio: Number | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            validation.check_positive("damping.RelativeDamping", ratio=self.ratio)

    @override
    def value(self, state: Scalar, largest: Scalar, loss: Scalar, count: Count) -> Scalar:
        del state, loss, count
        ratio = DEFAULT_RATIO[str(largest.dtype)] if self.ratio is None else self.ratio
        return _nonzero(ratio * largest)


@dataclasses.dataclass(frozen=True)
class LossDamping(Damping):
    """Lambda proportional to the objective: strong at the start, and soon weak.

    Far from a solution the linearized outputs are trusted for short steps only; near one they are
    right, and any damping slows the steps down. For residuals that can vanish this keeps the
    quadratic convergence of Gauss-Newton (Yamashita and Fukushima 2001; Fan and Yuan 2005). A
    factor on all residuals changes nothing.

    Args:
        factor: of the objective; positive.
        floor: smallest ratio of lambda to the largest eigenvalue of the undamped curvature, at
            least 0; None for the default of the Gram matrix's dtype, 1e-12 in float64 and 1e-3 in
            float32.

    Raises:
        ValueError: a number out of its range.

    Example:
        >>> import gtddp_jax as gt
        >>> rule = gt.damping.LossDamping(1e-4)
    """

    factor: Number = 1e-5
    floor: Number | None = None

    def __post_init__(self) -> None:
        validation.check_positive("damping.LossDamping", factor=self.factor)
        if isinstance(self.floor, (int, float)) and not self.floor >= 0:
            raise ValueError(f"damping.{self}: give a floor >= 0, or None for the default.")

    @override
    def value(self, state: Scalar, largest: Scalar, loss: Scalar, count: Count) -> Scalar:
        del state, count
        floor = DEFAULT_FLOOR[str(largest.dtype)] if self.floor is None else self.floor
        return _nonzero(jnp.maximum(self.factor * loss, floor * largest).astype(largest.dtype))


@dataclasses.dataclass(frozen=True)
class LevenbergMarquardt(Damping):
    """Lambda adapted to how well the last step's model predicted the change of the objective.

    The ratio of lambda to the largest eigenvalue shrinks after steps whose gain ratio is above
    `good` and grows after those below `poor`. The floor matters: with more parameters than samples
    a step fits its own batch, the gain ratio stays near 1, and lambda would shrink to nothing. With
    fresh batches give `update` a `validation_batch`, on which the gain ratio is then judged.

    Args:
        initial: first ratio of lambda to the largest eigenvalue.
        floor: smallest ratio.
        ceiling: largest ratio.
        shrink: factor after a good step, in (0, 1].
        grow: factor after a poor step, at least 1.
        good: gain ratio above which a step is good.
        poor: gain ratio below which a step is poor.

    Raises:
        ValueError: a number out of its range.

    Example:
        >>> import gtddp_jax as gt
        >>> rule = gt.damping.LevenbergMarquardt(initial=1e-4, floor=1e-9)
    """

    initial: float = 1e-3
    floor: float = 1e-9
    ceiling: float = 1e3
    shrink: float = 1 / 3
    grow: float = 3.0
    good: float = 0.75
    poor: float = 0.25

    def __post_init__(self) -> None:
        fine = (
            0 < self.floor <= self.initial <= self.ceiling
            and 0 < self.shrink <= 1 <= self.grow
            and self.poor < self.good
        )
        if not fine:
            raise ValueError(
                f"damping.{self}: 0 < floor <= initial <= ceiling, 0 < shrink <= 1 <= grow and "
                "poor < good are needed."
            )

    @override
    def init(self) -> float:
        return self.initial

    @override
    def value(self, state: Scalar, largest: Scalar, loss: Scalar, count: Count) -> Scalar:
        del loss, count
        return _nonzero(state.astype(largest.dtype) * largest)

    @override
    def next_state(self, state: Scalar, damping: Scalar, gain_ratio: Scalar) -> Scalar:
        del damping
        factor = jnp.where(gain_ratio > self.good, self.shrink, 1.0)
        factor = jnp.where(gain_ratio > self.poor, factor, self.grow)
        return jnp.clip(state * factor, self.floor, self.ceiling).astype(state.dtype)


def _nonzero(damping: jax.Array) -> jax.Array:
    """Damping where there is no curvature at all: any positive number gives the step d0."""
    return jnp.where(damping > 0, damping, 1.0)


def as_damping(damping: "Damping | Rate | None") -> Damping:
    """The argument `damping` of `joint` as a rule.

    Raises:
        ValueError: it is neither a positive number, a schedule nor a rule.
    """
    if damping is None:
        return RelativeDamping()
    if isinstance(damping, Damping):
        return damping
    if isinstance(damping, (int, float)):
        validation.check_positive("joint", damping=damping)
    if not callable(damping) and not isinstance(damping, (int, float, jax.Array)):
        raise ValueError(
            f"joint(damping={damping!r}): give a number > 0, an optax schedule, or a rule from "
            "gtddp_jax.damping."
        )
    return ConstantDamping(damping)
