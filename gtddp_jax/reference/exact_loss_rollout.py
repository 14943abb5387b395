"""The exact-loss terminal model by definition, from the gradients of single samples.

It evaluates the recursions of docs/mathematics.md, "4. Terminal models". It
needs no stages, so it also serves models of which only a function of the parameters is known.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gtddp_jax.core.types import Batch, Loss, Outputs
from gtddp_jax.reference.ddp import Gains


class _StageRecord(NamedTuple):
    """One stage of the backward pass: G [B, m], running-cost gradient [m], gains, pi and d [B]."""

    gradients: jax.Array
    cost: jax.Array
    gains: Gains
    pi: jax.Array
    d: jax.Array


def exact_loss_rollout(
    gradients: Sequence[Float[Array, "B _m"]],
    costs: Sequence[Float[Array, " _m"]],
    outputs: Outputs,
    loss: Loss,
    targets: Batch,
    gain_rule: Callable[[int, Float[Array, " m"]], Gains],
    *,
    max_shift: float | None,
    bounds: tuple[float, float] | None = None,
) -> list[Float[Array, " _m"]]:
    """The steps of all stages from per-sample gradients, with the linear rollout.

    Args:
        gradients: for each stage, the gradients of the samples' losses, [B, m].
        costs: for each stage, the gradient of the running cost, [m].
        outputs: the network's outputs, a tree of arrays [B, ...].
        loss: `(outputs, targets) -> [B]`.
        targets: a tree of arrays [B, ...].
        gain_rule: `(stage, Q_u) -> Gains`; a diagonal inverse may be given as [m].
        max_shift: a bound on the shift of the outputs, or None.
        bounds: bounds of psi', or None.

    Returns:
        For each stage the change of its parameters, [m].
    """
    batch = jax.tree.leaves(outputs)[0].shape[0]
    # `loss` expects a batch, so every sample becomes a batch of one under `vmap`.
    single_outputs, single_targets = (
        jax.tree.map(lambda leaf: leaf[:, None], tree) for tree in (outputs, targets)
    )

    def derivative(shift: jax.Array) -> jax.Array:
        def of_sample(output: Any, target: Any, shift: jax.Array) -> jax.Array:
            return _sample_derivative(output, target, shift, loss, max_shift, bounds)

        return jax.vmap(of_sample)(single_outputs, single_targets, shift)

    def curvature_of_sample(output: Any, target: Any) -> jax.Array:
        return _sample_curvature(output, target, loss)

    curvature = jax.vmap(curvature_of_sample)(single_outputs, single_targets)
    # Backward: predicted changes of the losses by later stages, from the last stage to the first.
    pi, d = jnp.zeros(batch), jnp.ones(batch)
    records: list[_StageRecord] = []
    for t in reversed(range(len(gradients))):
        big_g, cost = gradients[t], costs[t]
        gains = gain_rule(t, cost + derivative(pi) @ big_g / batch)
        records.insert(0, _StageRecord(big_g, cost, gains, pi, d))
        # rho_i = (1/B) h_i d_i G_i^T P G_i
        scaled = big_g * gains.inverse if gains.inverse.ndim == 1 else big_g @ gains.inverse
        rho = curvature * d * (scaled * big_g).sum(1) / batch
        pi, d = pi + d * (big_g @ gains.open_gain), d * (1 - rho)
    # Forward: steps that respond to the changes by earlier stages.
    delta_phi, steps = jnp.zeros(batch), []
    for t, (big_g, cost, gains, pi, d) in enumerate(records):
        weights = derivative(pi + d * delta_phi)
        closed_gradient = cost + weights @ big_g / batch
        # No loss has changed before the first stage: its step is the open gain.
        step = gains.open_gain if t == 0 else gains.closed_loop_step(closed_gradient)
        delta_phi = delta_phi + big_g @ step
        steps.append(step)
    return steps


def _flat_loss(
    output: Any, target: Any, loss: Loss
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """The outputs of one sample (leaves [1, ...]) as a vector, and its loss as a function of it."""
    flat, unravel = ravel_pytree(output)
    return flat, lambda vector: loss(unravel(vector), target)[0]


def _sample_derivative(
    output: Any,
    target: Any,
    shift: jax.Array,
    loss: Loss,
    max_shift: float | None,
    bounds: tuple[float, float] | None,
) -> jax.Array:
    """psi'(shift) of one sample."""
    x, phi = _flat_loss(output, target, loss)
    g = jax.grad(phi)(x)
    norm = jnp.sqrt((g**2).sum())
    if max_shift is not None:
        shift = jnp.clip(shift, -max_shift * norm, max_shift * norm)
    derivative = (g * jax.grad(phi)(x + shift * g / norm**2)).sum() / norm**2
    return derivative if bounds is None else jnp.clip(derivative, *bounds)


def _sample_curvature(output: Any, target: Any, loss: Loss) -> jax.Array:
    """The curvature psi''(0) of one sample, at least 0."""
    x, phi = _flat_loss(output, target, loss)
    g = jax.grad(phi)(x)
    return jnp.maximum(g @ jax.hessian(phi)(x) @ g / (g @ g) ** 2, 0)
