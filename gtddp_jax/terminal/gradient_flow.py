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

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import PerSample, Scalar
from gtddp_jax.terminal.base import TerminalExpansion
from gtddp_jax.terminal.scalar_equation import Bounds, clip_sample_weights

INTERVALS = (0.0, 0.03, 0.15, 0.32, 0.5)
"""Intervals of tau, on each of which psi is a parabola and the flow is exact.

That of length 0 evaluates psi' at the start. The next are short, because the first guess of where
they lead knows nothing of the curvature.
"""


class _Flow(NamedTuple):
    """The flow at the end of an interval, all [B].

    Attributes:
        shift: s.
        derivative: psi'(s), on the last parabola.
        curvature: that of the last parabola, at least 0.
        weights: the integral of psi' so far.
    """

    shift: PerSample
    derivative: PerSample
    curvature: PerSample
    weights: PerSample


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
    # The losses may be in double precision where the parameters are in single precision.
    dtype = jnp.result_type(constant_shift, weight_influence, expansion.exact_loss.value)
    constant_shift, weight_influence = (
        constant_shift.astype(dtype),
        weight_influence.astype(dtype),
    )
    is_raised = weight_influence < 0

    def advance(flow: _Flow, interval: Scalar) -> tuple[_Flow, None]:
        step = interval * weight_influence
        falling = jnp.maximum(step, 0.0)

        def shift_after(before: PerSample, curvature: PerSample) -> PerSample:
            mean = before * _mean_of_decay(falling * curvature)
            return flow.shift - step * jnp.where(is_raised, 1.0, mean)

        # The chord to where the last curvature leads gives the curvature of the interval.
        guess = shift_after(flow.derivative, flow.curvature)
        distance = guess - flow.shift
        is_moving = distance != 0
        found = expansion.derivative(guess)
        before = jnp.where(is_moving, flow.derivative, found)
        chord = (found - before) / jnp.where(is_moving, distance, 1.0)
        # A loss that bends down counts as a line, unless the sample is raised.
        chord = jnp.where(is_raised, chord, jnp.maximum(chord, 0.0))
        end = shift_after(before, chord)
        after = before + chord * (end - flow.shift)
        mean = jnp.where(
            is_raised, 0.5 * (before + after), before * _mean_of_decay(falling * chord)
        )
        weights = flow.weights + interval * mean
        return _Flow(end, after, jnp.maximum(chord, 0.0), weights), None

    zeros = jnp.zeros_like(constant_shift)
    start = _Flow(constant_shift, zeros, zeros, zeros)
    flow, _ = jax.lax.scan(advance, start, jnp.asarray(INTERVALS, dtype))
    return clip_sample_weights(flow.weights, bounds)


def _mean_of_decay(x: PerSample) -> PerSample:
    """(1 - exp(-x)) / x, the mean of exp(-x tau) over tau in [0, 1]."""
    is_small = jnp.abs(x) < 1e-4
    return jnp.where(is_small, 1 - 0.5 * x, -jnp.expm1(-x) / jnp.where(is_small, 1.0, x))
