"""The scalar equation of one sample: w = psi'(s0 - n w) (DESIGN §4, `product`).

The equation puts `n_i w_i` for `((1/B) N w)_i`, as if the batch shared the sample's weight. Where
n_i < 0 the others' answer raises this sample's loss: they do not share its weight, and the
equation may have no root. There their weight stays 1, and w = psi'(s0 - n).
"""

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import PerSample
from gtddp_jax.terminal.base import Expansion

Bounds = tuple[float, float] | None
State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
UNBOUNDED = 1e6
ITERATIONS = 64


def clip(w: PerSample, bounds: Bounds) -> PerSample:
    """`w` within `bounds`."""
    return w if bounds is None else jnp.clip(w, bounds[0], bounds[1])


def scalar_weights(expansion: Expansion, s0: PerSample, n: PerSample, bounds: Bounds) -> PerSample:
    """Solves `w = psi'(s0 - n w)` for every sample by Newton steps kept inside a bracket.

    For convex psi the residual `w - psi'(s0 + max(-n, 0) - max(n, 0) w)` increases with w, so the
    bracket closes around the one root. A root outside `bounds` becomes the nearer bound.

    Args:
        expansion: the terminal model.
        s0: shift without a new gradient, [B].
        n: influence of the weights, (1/B) N 1, [B].
        bounds: smallest and largest weight, or None.

    Returns:
        w [B].
    """
    s0, n = s0 + jnp.maximum(-n, 0), jnp.maximum(n, 0)
    low, high = (-UNBOUNDED, UNBOUNDED) if bounds is None else bounds
    eps = jnp.finfo(s0.dtype).eps
    # Newton steps square the error: one this short leaves an error of the size of eps.
    short = jnp.sqrt(eps)

    def improve(state: State) -> State:
        w, lo, hi, moved, count = state
        slope, bend = expansion.slope_and_bend(s0 - n * w)
        residual = w - slope
        lo, hi = jnp.where(residual < 0, w, lo), jnp.where(residual > 0, w, hi)
        newton = w - residual / jnp.maximum(1 + n * bend, eps)
        # A Newton step that leaves the bracket, or is not half as long as the step before it,
        # could wander for ever; halving the bracket cannot.
        good = (newton >= lo) & (newton <= hi) & (jnp.abs(newton - w) <= 0.5 * moved)
        new = jnp.where(good, newton, 0.5 * (lo + hi))
        still = (residual == 0) | (moved <= short * jnp.maximum(1.0, jnp.abs(w)))
        new = jnp.where(still, w, new)
        return new, lo, hi, jnp.abs(new - w), count + 1

    def unfinished(state: State) -> jax.Array:
        w, _, _, moved, count = state
        return (count < ITERATIONS) & (moved > short * jnp.maximum(1.0, jnp.abs(w))).any()

    start = jnp.clip(jnp.ones_like(s0), low, high)
    lo, hi = jnp.full_like(s0, low), jnp.full_like(s0, high)
    first = improve((start, lo, hi, 2 * (hi - lo), jnp.zeros((), int)))
    return jax.lax.while_loop(unfinished, improve, first)[0]
