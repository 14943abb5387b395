"""The curvature of the loss along the gradient as a terminal model."""

import dataclasses

import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Outputs
from gtddp_jax.terminal.base import (
    PerSampleLoss,
    QuadraticExpansion,
    TerminalModel,
    loss_along_gradient,
)
from gtddp_jax.terminal.linear_losses import warn_if_linear


@dataclasses.dataclass(frozen=True)
class ProjectedHessian(TerminalModel):
    """A quadratic model with the loss's own curvature along its gradient.

    h = g^T H g / |g|^4, at least 0, with H the Hessian of the loss with respect to the outputs.

    Example:
        >>> import gtddp_jax as gt
        >>> terminal = gt.terminal.ProjectedHessian()
    """

    @override
    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> QuadraticExpansion:
        exact_loss = loss_along_gradient(loss, outputs)
        is_linear = warn_if_linear(exact_loss)
        # V_xx must stay >= 0: negative curvature would reward arbitrarily long steps.
        curvature = jnp.maximum(exact_loss.second_derivative_at_zero(), 0.0)
        return QuadraticExpansion(exact_loss, curvature, is_linear)
