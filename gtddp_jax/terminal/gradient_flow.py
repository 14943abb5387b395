"""The weight of one sample by the gradient flow of its loss along the step.

| symbol | meaning                                                          | here               |
|--------|------------------------------------------------------------------|--------------------|
| w_i    | weight of the sample's gradient                                  | `weights`          |
| s_i    | change of its loss that does not depend on the weights           | `constant_shift`   |
| n_i    | -change of its loss by a step in which all samples have weight 1 | `weight_influence` |

The step is taken gradually, and at each time tau in [0, 1] the sample has the weight psi' of where
it is: ds/dtau = -n psi'(s), and w is the mean of psi' over tau. On a parabola with x = n psi'' this
is (1 - exp(-x)) / x. Where n_i < 0 the step of the other samples raises this sample's loss: they
keep a weight of 1, so ds/dtau = -n.
"""

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import PerSample
from gtddp_jax.terminal.base import TerminalExpansion
from gtddp_jax.terminal.scalar_equation import Bounds, clip_sample_weights

FLOW_STEPS = 4
"""Intervals of tau, on each of which psi is a parabola and the flow is exact."""


def integrate_sample_weights(
    expansion: TerminalExpansion,
    constant_shift: PerSample,
    weight_influence: PerSample,
    bounds: Bounds,
) -> PerSample:
    """The mean of psi' along the gradient flow, for every sample.

    Args:
        expansion: the terminal model.
        constant_shift: s [B].
        weight_influence: n [B].
        bounds: the smallest and the largest weight, or None.

    Returns:
        w [B].
    """
    interval = 1.0 / FLOW_STEPS
    raised = jnp.maximum(-weight_influence, 0) * interval
    influence = jnp.maximum(weight_influence, 0) * interval

    def advance(
        carry: tuple[PerSample, PerSample], _: None
    ) -> tuple[tuple[PerSample, PerSample], None]:
        shift, total = carry
        derivative, second_derivative = expansion.first_two_derivatives(shift)
        # The mean of psi' over the interval; a loss that bends down counts as a line.
        decay = influence * jnp.maximum(second_derivative, 0)
        falling = derivative * _mean_of_decay(decay)
        rising = derivative + 0.5 * raised * second_derivative
        mean = jnp.where(raised > 0, rising, falling)
        return (shift + raised - influence * mean, total + interval * mean), None

    start = (constant_shift, jnp.zeros_like(constant_shift))
    (_, weights), _ = jax.lax.scan(advance, start, None, length=FLOW_STEPS)
    return clip_sample_weights(weights, bounds)


def _mean_of_decay(x: PerSample) -> PerSample:
    """(1 - exp(-x)) / x, the mean of exp(-x tau) over tau in [0, 1], for x >= 0."""
    is_small = x < 1e-4
    return jnp.where(is_small, 1 - 0.5 * x, -jnp.expm1(-x) / jnp.where(is_small, 1.0, x))
