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

from gtddp_jax.core.types import PerSample
from gtddp_jax.terminal.base import TerminalExpansion
from gtddp_jax.terminal.scalar_equation import Bounds, clip_sample_weights

FLOW_STEPS = 4
"""Intervals of tau, on each of which psi is a parabola and the flow is exact."""


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
    interval = 1.0 / FLOW_STEPS
    # The losses may be in double precision where the parameters are in single precision.
    dtype = jnp.result_type(constant_shift, weight_influence, expansion.exact_loss.value)
    constant_shift, weight_influence = (
        constant_shift.astype(dtype),
        weight_influence.astype(dtype),
    )
    raised = jnp.maximum(-weight_influence, 0) * interval
    influence = jnp.maximum(weight_influence, 0) * interval
    is_raised = raised > 0

    def shift_after(shift: PerSample, derivative: PerSample, curvature: PerSample) -> PerSample:
        falling = influence * derivative * _mean_of_decay(influence * curvature)
        return shift + jnp.where(is_raised, raised, -falling)

    def advance(flow: _Flow, _: None) -> tuple[_Flow, None]:
        # The chord to where the last curvature leads gives the curvature of the interval.
        guess = shift_after(flow.shift, flow.derivative, flow.curvature)
        distance = guess - flow.shift
        is_moving = distance != 0
        rise = expansion.derivative(guess) - flow.derivative
        chord = rise / jnp.where(is_moving, distance, 1.0)
        # A loss that bends down counts as a line, unless the sample is raised.
        chord = jnp.where(is_moving & (is_raised | (chord > 0)), chord, 0.0)
        end = shift_after(flow.shift, flow.derivative, chord)
        derivative = flow.derivative + chord * (end - flow.shift)
        mean_if_falling = flow.derivative * _mean_of_decay(influence * jnp.maximum(chord, 0))
        mean = jnp.where(is_raised, 0.5 * (flow.derivative + derivative), mean_if_falling)
        weights = flow.weights + interval * mean
        return _Flow(end, derivative, jnp.maximum(chord, 0), weights), None

    start = _Flow(
        constant_shift,
        expansion.derivative(constant_shift),
        expansion.curvature,
        jnp.zeros_like(constant_shift),
    )
    flow, _ = jax.lax.scan(advance, start, None, length=FLOW_STEPS)
    return clip_sample_weights(flow.weights, bounds)


def _mean_of_decay(x: PerSample) -> PerSample:
    """(1 - exp(-x)) / x, the mean of exp(-x tau) over tau in [0, 1], for x >= 0."""
    is_small = x < 1e-4
    return jnp.where(is_small, 1 - 0.5 * x, -jnp.expm1(-x) / jnp.where(is_small, 1.0, x))
