"""The `line` terminal model by definition (DESIGN §4) from the gradients of single samples.

It needs no stages, so it serves models of which only a function of the parameters is known.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gtddp_jax.core.types import Batch, Loss, Outputs
from gtddp_jax.reference.dense import Gains


def line_rollout(
    gradients: Sequence[Float[Array, "B _m"]],
    costs: Sequence[Float[Array, " _m"]],
    outputs: Outputs,
    loss: Loss,
    targets: Batch,
    gains: Callable[[int, Float[Array, " m"]], Gains],
    *,
    max_shift: float | None,
    bounds: tuple[float, float] | None = None,
) -> list[Float[Array, " _m"]]:
    """The steps of all stages from per-sample gradients, with the linear rollout.

    Args:
        gradients: for each stage the gradients of the samples' losses, [B, m].
        costs: for each stage the gradient of the running cost, [m].
        outputs: of the network, a tree of arrays [B, ...].
        loss: `(outputs, targets) -> [B]`.
        targets: a tree of arrays [B, ...].
        gains: `(stage, Q_u) -> Gains`; a diagonal inverse may be given as [m].
        max_shift: bound on the shift of the outputs, or None.
        bounds: of the slopes, or None.

    Returns:
        For each stage the change of its parameters, [m].
    """
    batch = jax.tree.leaves(outputs)[0].shape[0]

    def along(x: Any, y: Any) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        """One sample's outputs as a vector, and its loss as a function of them."""
        x, y = (jax.tree.map(lambda v: v[None], tree) for tree in (x, y))
        flat, unravel = ravel_pytree(x)
        return flat, lambda v: loss(unravel(v), y)[0]

    def slope(x: Any, y: Any, s: jax.Array) -> jax.Array:
        x, phi = along(x, y)
        g = jax.grad(phi)(x)
        norm = jnp.sqrt((g**2).sum())
        if max_shift is not None:
            s = jnp.clip(s, -max_shift * norm, max_shift * norm)
        found = (g * jax.grad(phi)(x + s * g / norm**2)).sum() / norm**2
        return found if bounds is None else jnp.clip(found, *bounds)

    def bend(x: Any, y: Any) -> jax.Array:
        x, phi = along(x, y)
        g = jax.grad(phi)(x)
        return jnp.maximum(g @ jax.hessian(phi)(x) @ g / (g @ g) ** 2, 0)

    slopes = functools.partial(jax.vmap(slope), outputs, targets)
    bends = jax.vmap(bend)(outputs, targets)
    pi, d = jnp.zeros(batch), jnp.ones(batch)
    plans = []
    for t in reversed(range(len(gradients))):
        big, cost = gradients[t], costs[t]
        alpha = slopes(pi)
        gain = gains(t, cost + alpha @ big / batch)
        plans.insert(0, (big, cost, gain, pi, d))
        image = big * gain.inverse if gain.inverse.ndim == 1 else big @ gain.inverse
        rho = bends * d * (image * big).sum(1) / batch
        pi, d = pi + d * (big @ gain.k), d * (1 - rho)
    delta, steps = jnp.zeros(batch), []
    for t, (big, cost, gain, pi, d) in enumerate(plans):
        w = slopes(pi + d * delta)
        step = gain.k if t == 0 else gain.respond(cost + w @ big / batch)
        delta = delta + big @ step
        steps.append(step)
    return steps
