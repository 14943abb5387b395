"""The loss to first order: all sample weights are 1, and no second derivative is asked for."""

import dataclasses

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


@dataclasses.dataclass(frozen=True)
class FirstOrderExpansion(TerminalExpansion):
    """psi(s) = psi(0) + s."""

    exact_loss: LossAlongGradient
    curvature: PerSample

    @override
    def derivative(self, shift: PerSample) -> PerSample:
        return jnp.ones_like(shift)

    @override
    def first_two_derivatives(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        return jnp.ones_like(shift), jnp.zeros_like(shift)

    @override
    def loss_change(self, shift: PerSample) -> PerSample:
        return shift


@dataclasses.dataclass(frozen=True)
class FirstOrder(TerminalModel):
    """The model of a game that is switched off, which is the base method alone."""

    @override
    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> FirstOrderExpansion:
        exact_loss = loss_along_gradient(loss, outputs)
        return FirstOrderExpansion(exact_loss, jnp.zeros_like(exact_loss.value))
