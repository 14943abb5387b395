"""The scalar equation of one sample's weight: w = psi'(s - n w).

| symbol | meaning                                                          | here               |
|--------|------------------------------------------------------------------|--------------------|
| w_i    | weight of the sample's gradient                                  | `weights`          |
| s_i    | change of its loss that does not depend on the weights           | `constant_shift`   |
| n_i    | -change of its loss by a step in which all samples have weight 1 | `weight_influence` |

The exact equations couple all samples of the batch. The scalar equation replaces the coupling
`((1/B) N w)_i` by `n_i w_i`, as if all samples had the weight of sample i
(docs/mathematics_games.md, "The implicit game"). Where n_i < 0 the step of the other samples raises
this sample's loss: they do not share its weight, and the equation may have no root. There the other
samples keep a weight of 1, and w = psi'(s - n).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from gtddp_jax.core.types import PerSample
from gtddp_jax.terminal.base import TerminalExpansion

Bounds = tuple[float, float] | None
LARGEST_WEIGHT = 1e6
"""The bracket of the weights where they have no bounds."""
MAX_ITERATIONS = 64


class BracketState(NamedTuple):
    """The state of the bracketed Newton iteration.

    Attributes:
        weights: the current weights [B].
        lower: the lower ends of the brackets [B].
        upper: the upper ends of the brackets [B].
        step_size: |change of the weights| in the last iteration [B].
        iteration: the number of iterations so far.
    """

    weights: PerSample
    lower: PerSample
    upper: PerSample
    step_size: PerSample
    iteration: Int[Array, ""]


def clip_sample_weights(weights: PerSample, bounds: Bounds) -> PerSample:
    """`weights`, clipped to `bounds`."""
    return weights if bounds is None else jnp.clip(weights, bounds[0], bounds[1])


def solve_sample_weights(
    expansion: TerminalExpansion,
    constant_shift: PerSample,
    weight_influence: PerSample,
    bounds: Bounds,
) -> PerSample:
    """Solves `w = psi'(s - n w)` for every sample by Newton steps inside a bracket.

    For convex psi the residual `w - psi'(s + max(-n, 0) - max(n, 0) w)` increases with w, so the
    bracket closes around the only root. A root outside `bounds` becomes the nearer bound.

    Args:
        expansion: the terminal model.
        constant_shift: s [B].
        weight_influence: n [B].
        bounds: the smallest and the largest weight, or None.

    Returns:
        w [B].
    """
    # Where n < 0 the other samples keep a weight of 1, so their contribution is constant.
    constant_shift = constant_shift + jnp.maximum(-weight_influence, 0)
    weight_influence = jnp.maximum(weight_influence, 0)
    smallest, largest = (-LARGEST_WEIGHT, LARGEST_WEIGHT) if bounds is None else bounds
    eps = jnp.finfo(constant_shift.dtype).eps
    # Newton's method squares the error: after a step of sqrt(eps) the error is of order eps.
    tolerance = jnp.sqrt(eps)

    def newton_step(state: BracketState) -> BracketState:
        weights, lower, upper, last_step_size, iteration = state
        derivative, second_derivative = expansion.first_two_derivatives(
            constant_shift - weight_influence * weights
        )
        residual = weights - derivative
        # The residual increases with w: its sign tells on which side the root lies.
        lower = jnp.where(residual < 0, weights, lower)
        upper = jnp.where(residual > 0, weights, upper)
        newton = weights - residual / jnp.maximum(1 + weight_influence * second_derivative, eps)
        # A Newton step that leaves the bracket, or that is more than half as long as the step
        # before it, may never converge; bisection always does.
        is_safe = (
            (newton >= lower)
            & (newton <= upper)
            & (jnp.abs(newton - weights) <= 0.5 * last_step_size)
        )
        next_weights = jnp.where(is_safe, newton, 0.5 * (lower + upper))
        converged = (residual == 0) | (
            last_step_size <= tolerance * jnp.maximum(1.0, jnp.abs(weights))
        )
        # Samples that have converged keep their weights while the others iterate.
        next_weights = jnp.where(converged, weights, next_weights)
        step_size = jnp.abs(next_weights - weights)
        return BracketState(next_weights, lower, upper, step_size, iteration + 1)

    def not_converged(state: BracketState) -> jax.Array:
        is_moving = state.step_size > tolerance * jnp.maximum(1.0, jnp.abs(state.weights))
        return (state.iteration < MAX_ITERATIONS) & is_moving.any()

    start = jnp.clip(jnp.ones_like(constant_shift), smallest, largest)
    lower = jnp.full_like(constant_shift, smallest)
    upper = jnp.full_like(constant_shift, largest)
    first = newton_step(BracketState(start, lower, upper, 2 * (upper - lower), jnp.zeros((), int)))
    return jax.lax.while_loop(not_converged, newton_step, first).weights
