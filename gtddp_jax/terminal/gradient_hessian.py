"""The paper's terminal model: V_xx = grad phi grad phi^T (paper Prop. 5)."""

import dataclasses

from typing_extensions import override

from gtddp_jax.core.types import Outputs, Scalar
from gtddp_jax.terminal.base import (
    PerSampleLoss,
    QuadraticExpansion,
    TerminalModel,
    loss_along_gradient,
)


@dataclasses.dataclass(frozen=True)
class GradientExpansion(QuadraticExpansion):
    """The quadratic model with h = 1."""

    @override
    def with_gradient_share(self, share: Scalar) -> "GradientExpansion":
        # grad phi grad phi^T is quadratic in the loss, so a scaled loss has another h.
        return GradientExpansion(
            self.exact_loss, share.astype(self.curvature.dtype) * self.curvature
        )


@dataclasses.dataclass(frozen=True)
class GradientHessian(TerminalModel):
    """A quadratic model with curvature h = 1, the paper's choice.

    It overestimates the curvature where the loss is small, so the sample weights can diverge. The
    curvature is quadratic in the loss: of B samples of which only n have a gradient, h = n / B, as
    for these n samples with their loss multiplied by n / B.

    Example:
        >>> import gtddp_jax as gt
        >>> terminal = gt.terminal.GradientHessian()
    """

    @override
    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> GradientExpansion:
        exact_loss = loss_along_gradient(loss, outputs)
        # A sample without gradient has no direction to have curvature along.
        curvature = exact_loss.has_gradient.astype(exact_loss.gradient_norm.dtype)
        return GradientExpansion(exact_loss, curvature)
