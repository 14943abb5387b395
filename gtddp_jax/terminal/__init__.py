"""Terminal models: the loss of each sample along its own gradient."""

from collections.abc import Callable

from gtddp_jax.terminal.base import TerminalExpansion, TerminalModel
from gtddp_jax.terminal.exact_loss import ExactLoss
from gtddp_jax.terminal.gradient_hessian import GradientHessian
from gtddp_jax.terminal.projected_hessian import ProjectedHessian

TERMINALS: dict[str, Callable[..., TerminalModel]] = {
    "gradient": GradientHessian,
    "projected": ProjectedHessian,
    "exact_loss": ExactLoss,
}
"""All terminal models by name."""

__all__ = [
    "TERMINALS",
    "ExactLoss",
    "GradientHessian",
    "ProjectedHessian",
    "TerminalExpansion",
    "TerminalModel",
]
