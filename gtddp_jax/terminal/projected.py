"""The true curvature along the gradient (DESIGN §4)."""

import dataclasses

import jax.numpy as jnp

from gtddp_jax.terminal.base import Outputs, PerSampleLoss, Tangent, Terminal, line_of


@dataclasses.dataclass(frozen=True)
class projected(Terminal):  # noqa: N801  (a constructor)
    """h = g^T H g / |g|^4, at least 0; H the Hessian of the loss by the outputs.

    Example:
        >>> import gtddp_jax as gt
        >>> terminal = gt.terminal.projected()
    """

    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> Tangent:
        """See `Terminal`."""
        line = line_of(loss, outputs)
        return Tangent(line, jnp.maximum(line.bend(), 0.0))
