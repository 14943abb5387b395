"""The paper's terminal model: V_xx = grad phi grad phi^T (paper Prop. 5; DESIGN §4)."""

import dataclasses

from gtddp_jax.terminal.base import Outputs, PerSampleLoss, Tangent, Terminal, line_of


@dataclasses.dataclass(frozen=True)
class gradient(Terminal):  # noqa: N801  (a constructor)
    """h = 1. Overestimates the curvature where the loss is small: alpha can run away.

    Example:
        >>> import gtddp_jax as gt
        >>> terminal = gt.terminal.gradient()
    """

    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> Tangent:
        """See `Terminal`."""
        line = line_of(loss, outputs)
        return Tangent(line, line.alive.astype(line.norm.dtype))
