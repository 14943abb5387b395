"""The `line` terminal model by definition (DESIGN §4): loops over samples and stages.

It has no Hessian, so it is not a case of `ddp_step`; every quantity is formed densely instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gtddp_jax.network.program import Stage
from gtddp_jax.reference.dense import Gains

Tree = Any


def line_step(
    stages: Sequence[Stage],
    params: Tree,
    inputs: jax.Array,
    loss: Callable[[jax.Array, Any], jax.Array],
    targets: jax.Array,
    gains: Callable[[int, jax.Array], Gains],
    *,
    max_shift: float | None,
    running: Tree | None = None,
) -> Tree:
    """One step of the `line` model with the linear rollout.

    Args:
        stages: the dynamics.
        params: `{player: tree}`.
        inputs: [B, ...].
        loss: `(outputs, targets) -> [B]`.
        targets: [B, ...].
        gains: `(stage, Q_u) -> Gains`.
        max_shift: bound on the shift of the outputs, or None.
        running: gradients of the running cost, or None.

    Returns:
        The change of the parameters, `{player: tree}`.
    """
    batch = inputs.shape[0]

    def outputs_of(params: Tree, i: int) -> jax.Array:
        states: tuple[jax.Array, ...] = (inputs[i : i + 1],)
        for stage in stages:
            states = stage(params, states)
        return states[0]

    def loss_of(outputs: jax.Array, i: int) -> jax.Array:
        return loss(outputs, targets[i : i + 1])[0]

    def slope(i: int, s: jax.Array) -> jax.Array:
        x = outputs_of(params, i)
        g = jax.grad(loss_of)(x, i)
        norm = jnp.sqrt((g**2).sum())
        if max_shift is not None:
            s = jnp.clip(s, -max_shift * norm, max_shift * norm)
        shifted = jax.grad(loss_of)(x + s * g / norm**2, i)
        return (g * shifted).sum() / norm**2

    def bend(i: int) -> jax.Array:
        x = outputs_of(params, i)
        g = jax.grad(loss_of)(x, i).ravel()
        hessian = jax.hessian(lambda v: loss_of(v.reshape(x.shape), i))(x.ravel())
        return jnp.maximum(g @ hessian @ g / (g @ g) ** 2, 0)

    gradients = [
        jnp.stack(
            [
                ravel_pytree(
                    jax.grad(lambda own, i=i: loss_of(outputs_of({**params, **own}, i), i))(
                        {name: params[name] for name in stage.players}
                    )
                )[0]
                for i in range(batch)
            ]
        )
        for stage in stages
    ]
    bends = jnp.stack([bend(i) for i in range(batch)])
    pi, d = jnp.zeros(batch), jnp.ones(batch)
    plans = []
    for t in reversed(range(len(stages))):
        big = gradients[t]
        own, _ = ravel_pytree({name: params[name] for name in stages[t].players})
        cost = jnp.zeros_like(own)
        if running is not None:
            cost, _ = ravel_pytree({name: running[name] for name in stages[t].players})
        alpha = jnp.stack([slope(i, pi[i]) for i in range(batch)])
        gain = gains(t, cost + alpha @ big / batch)
        plans.insert(0, (big, cost, gain, pi, d))
        rho = bends * d * jnp.einsum("im,mn,in->i", big, gain.inverse, big) / batch
        pi, d = pi + d * (big @ gain.k), d * (1 - rho)
    delta, steps = jnp.zeros(batch), {}
    for t, (big, cost, gain, pi, d) in enumerate(plans):
        w = jnp.stack([slope(i, pi[i] + d[i] * delta[i]) for i in range(batch)])
        step = gain.k if t == 0 else gain.respond(cost + w @ big / batch)
        delta = delta + big @ step
        _, unravel = ravel_pytree({name: params[name] for name in stages[t].players})
        steps.update(unravel(step))
    return steps
