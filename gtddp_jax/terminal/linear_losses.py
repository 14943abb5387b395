"""Losses that are linear in the outputs, of which no game can make anything."""

import warnings

import jax
import jax.numpy as jnp

from gtddp_jax.core.game_warning import GameWarning
from gtddp_jax.core.jaxprs import reads_argument
from gtddp_jax.core.types import Outputs
from gtddp_jax.terminal.base import LossAlongGradient, PerSampleLoss

LINEAR_LOSS = (
    "loss(outputs, targets) is linear in the outputs: its derivative does not change with the "
    "step, so all sample weights are 1 and the game does nothing. Typically log_softmax is in the "
    "model and a negative log-likelihood in the loss, or the model itself returns the loss. Return "
    "logits from the model and put the nonlinearity into the loss, for example "
    "optax.softmax_cross_entropy_with_integer_labels(logits, labels). If only the base optimizer "
    "is meant, say so: implicit(..., strength=0.0), gtddp(..., equilibrium='open_loop')."
)


def warn_if_linear(exact_loss: LossAlongGradient) -> bool:
    """Whether a loss is linear in the outputs; warns if so, once for each trace of a step."""
    is_linear = _has_constant_gradient(exact_loss.loss, exact_loss.outputs)
    if is_linear:
        warnings.warn(LINEAR_LOSS, GameWarning, stacklevel=2)
    return is_linear


def _has_constant_gradient(loss: PerSampleLoss, outputs: Outputs) -> bool:
    """Whether the gradient of a loss is computed without the outputs."""

    def gradient(outputs: Outputs) -> Outputs:
        value, pullback = jax.vjp(loss, outputs)
        return pullback(jnp.ones_like(value))[0]

    # Kinks (abs, hinge) read the outputs to choose a side, so they count as nonlinear.
    return not reads_argument(gradient, outputs)
