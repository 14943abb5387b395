"""The exact loss along the gradient as a terminal model."""

import dataclasses
import math

import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Outputs, PerSample
from gtddp_jax.terminal.base import (
    LossAlongGradient,
    PerSampleLoss,
    TerminalExpansion,
    TerminalModel,
    loss_along_gradient,
)
from gtddp_jax.terminal.linear_losses import warn_if_linear


@dataclasses.dataclass(frozen=True)
class ExactExpansion(TerminalExpansion):
    """psi itself, with bounds on the shift of the outputs and on psi'."""

    exact_loss: LossAlongGradient
    curvature: PerSample
    max_shift: float | None
    bounds: tuple[float, float] | None
    is_linear: bool = False

    def _bounded_shift(self, shift: PerSample) -> PerSample:
        if self.max_shift is None:
            return shift
        # The outputs move by shift / |g| (Euclidean norm), so this bounds them by max_shift.
        largest = self.max_shift * self.exact_loss.gradient_norm
        return jnp.clip(shift, -largest, largest)

    @override
    def derivative(self, shift: PerSample) -> PerSample:
        derivative = self.exact_loss.value_and_derivative(self._bounded_shift(shift))[1]
        return derivative if self.bounds is None else jnp.clip(derivative, *self.bounds)

    @override
    def first_two_derivatives(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        bounded_shift = self._bounded_shift(shift)
        derivative, second_derivative = self.exact_loss.first_two_derivatives(bounded_shift)
        # Beyond a bound psi' is constant, so its derivative there is 0.
        within_bounds = bounded_shift == shift
        if self.bounds is not None:
            within_bounds &= (derivative > self.bounds[0]) & (derivative < self.bounds[1])
            derivative = jnp.clip(derivative, *self.bounds)
        return derivative, jnp.where(within_bounds, second_derivative, 0.0)

    @override
    def loss_change(self, shift: PerSample) -> PerSample:
        value, _ = self.exact_loss.value_and_derivative(self._bounded_shift(shift))
        return value - self.exact_loss.value


@dataclasses.dataclass(frozen=True)
class ExactLoss(TerminalModel):
    """The exact loss along each sample's gradient.

    Sample weights are derivatives psi' of the exact loss. For a convex loss they saturate, where
    the weights of a quadratic model grow without limit.

    Args:
        max_shift: the largest distance (Euclidean norm, in units of the outputs) by which the model
            moves the outputs of a sample; None for no bound.
        bounds: the smallest and the largest value of psi', and so of the sample weights, with
            0 <= smallest < 1 < largest; None for no bounds. The predicted change of the loss is not
            bounded by them.

    Raises:
        ValueError: `max_shift` is not positive, or `bounds` is not such a pair.

    Example:
        >>> import gtddp_jax as gt
        >>> terminal = gt.terminal.ExactLoss(max_shift=1.0)
    """

    max_shift: float | None = 1.0
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.max_shift is not None and not self.max_shift > 0:
            raise ValueError(
                f"terminal.ExactLoss(max_shift={self.max_shift!r}): give a number > 0, or None."
            )
        if self.max_shift == math.inf:  # inf * 0 is NaN for a sample without gradient
            object.__setattr__(self, "max_shift", None)
        if self.bounds is not None and not _are_bounds(self.bounds):
            raise ValueError(
                f"terminal.ExactLoss(bounds={self.bounds!r}): give (smallest, largest) with "
                "0 <= smallest < 1 < largest, for example (0.02, 10.0), or None."
            )

    @override
    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> ExactExpansion:
        exact_loss = loss_along_gradient(loss, outputs)
        is_linear = warn_if_linear(exact_loss)
        # V_xx must stay >= 0: negative curvature would reward arbitrarily long steps.
        curvature = jnp.maximum(exact_loss.second_derivative_at_zero(), 0.0)
        return ExactExpansion(
            exact_loss, curvature, self.max_shift, self.bounds, is_linear=is_linear
        )


def _are_bounds(bounds: object) -> bool:
    """Whether `bounds` is a pair (smallest, largest) with 0 <= smallest < 1 < largest."""
    try:
        smallest, largest = bounds  # pyright: ignore[reportGeneralTypeIssues]
        return bool(0 <= smallest < 1 < largest)
    except (TypeError, ValueError):
        return False
