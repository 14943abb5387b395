"""The collapse by definition (DESIGN §3, §4, §7): dense gradients of single samples, plain loops.

For the `line` terminal, which has no Hessian, and for networks whose samples are coupled (batch
normalisation), which have no Jacobians of single samples, `ddp_step` does not apply. What remains
is defined as follows, and formed here without the library's per-sample sums:

| symbol  | definition                                                              | shape   |
|---------|-------------------------------------------------------------------------|---------|
| G_t,i   | gradient of sum_j phi_j by sample i's own copy of the stage's parameters | [B, m] |
| g_t,i   | gradient of sum_j phi_j by sample i's states before the stage           | [B, n]  |
| psi'_i  | slope of the terminal model of sample i at a predicted change           | scalar  |
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Shaped

from gtddp_jax.core.types import Tree
from gtddp_jax.network.program import Act, Stage
from gtddp_jax.reference.dense import Gains
from gtddp_jax.reference.hessians import PerSampleLoss

States = tuple[jax.Array, ...]
TERMINALS = ("line", "projected", "gradient")


class _Model(NamedTuple):
    """The terminal model: slope of each sample at predicted changes s [B], and its curvatures."""

    slope: Callable[[jax.Array], jax.Array]
    bends: jax.Array


def _terminal(
    name: str,
    loss: Callable[[jax.Array], jax.Array],
    outputs: jax.Array,
    max_shift: float | None,
    bounds: tuple[float, float] | None,
) -> _Model:
    batch, shape = outputs.shape[0], outputs.shape
    flat = outputs.reshape(batch, -1)

    def total(flat: jax.Array) -> jax.Array:
        return loss(flat.reshape(shape)).sum()

    g = jax.grad(total)(flat)
    square = (g**2).sum(-1)
    index = jnp.arange(batch)
    hessian = jax.hessian(total)(flat)[index, :, index, :]
    bends = jnp.maximum(jnp.einsum("bp,bpq,bq->b", g, hessian, g) / square**2, 0)
    if name == "gradient":
        bends = jnp.ones(batch)

    def slope(s: jax.Array) -> jax.Array:
        if name != "line":
            return 1 + bends * s
        if max_shift is not None:
            s = jnp.clip(s, -max_shift * jnp.sqrt(square), max_shift * jnp.sqrt(square))
        shifted = jax.grad(total)(flat + (s / square)[:, None] * g)
        found = (g * shifted).sum(-1) / square
        return found if bounds is None else jnp.clip(found, *bounds)

    return _Model(slope, bends)


def _root(model: _Model, shift: jax.Array, d: jax.Array, b: jax.Array, n: jax.Array) -> jax.Array:
    """The root of `w = psi'(shift + d (b - n w))`; where n < 0 the others keep a weight of 1."""
    fixed, moving = shift + d * (b + jnp.maximum(-n, 0)), d * jnp.maximum(n, 0)

    def halve(_: jax.Array, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = middle > model.slope(fixed - moving * middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    wide = (jnp.full_like(shift, -1e3), jnp.full_like(shift, 1e3))
    low, high = jax.lax.fori_loop(0, 80, halve, wide)
    return 0.5 * (low + high)


def _own_copies(
    stages: Sequence[Stage], t: int, params: Tree, states: States, copies: Tree
) -> jax.Array:
    """The outputs from the states before stage t, whose players have parameters a sample."""
    for stage in stages[t:]:
        values = dict(zip(stage.inputs, states, strict=True))
        for op in stage.ops:
            xs = [values[v] for v in op.sources]
            if isinstance(op, Act) and stage is stages[t]:

                def alone(own: Tree, *x: jax.Array, op: Act = op) -> jax.Array:
                    return op({op.name: own}, *(v[None] for v in x))[0]

                values[op.target] = jax.vmap(alone)(copies[op.name], *xs)
            else:
                values[op.target] = op(params, *xs)
        states = tuple(values[v] for v in stage.outputs)
    return states[0]


def sample_gradients(
    stages: Sequence[Stage],
    params: Tree,
    states: Sequence[States],
    loss: Callable[[jax.Array], jax.Array],
) -> tuple[list[jax.Array], list[States]]:
    """G_t [B, m] and g_t of every stage, the coupling by batch normalisation in full (DESIGN §7).

    Args:
        stages: the dynamics.
        params: `{player: tree}`.
        states: the states before every stage.
        loss: outputs -> [B].

    Returns:
        By stage: gradients of each sample's loss by the parameters, and by the states before it.
    """
    batch = states[0][0].shape[0]
    gradients, adjoints = [], []
    for t, stage in enumerate(stages):
        mine = {name: params[name] for name in stage.players}
        copies = jax.tree.map(lambda u: jnp.broadcast_to(u, (batch, *u.shape)), mine)

        def total(copies: Tree, before: States, t: int = t) -> jax.Array:
            return loss(_own_copies(stages, t, params, before, copies)).sum()

        by_copies, by_states = jax.grad(total, argnums=(0, 1))(copies, states[t])
        gradients.append(jax.vmap(lambda tree: ravel_pytree(tree)[0])(by_copies))
        adjoints.append(by_states)
    return gradients, adjoints


def collapsed_step(
    stages: Sequence[Stage],
    params: Tree,
    inputs: Shaped[Array, "B ..."],
    loss: PerSampleLoss,
    gains: Callable[[int, Float[Array, " m"]], Gains],
    *,
    terminal: str = "line",
    max_shift: float | None = None,
    running: Tree | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    bounds: tuple[float, float] | None = None,
    coupled: int = 0,
) -> Tree:
    """One step by the recursions of DESIGN §3 and §4, literally.

    Args:
        stages: the dynamics; for a network with batch normalisation from `Network.bind`.
        params: `{player: tree}`.
        inputs: [B, ...].
        loss: outputs -> [B], sample by sample.
        gains: `(stage, Q_u) -> Gains`.
        terminal: "line", "projected" or "gradient".
        max_shift: for "line", a bound on the shift of the outputs, or None.
        running: gradients of the running cost, or None.
        rollout: "linear" or "nonlinear".
        own_curvature: whether a stage answers to its own step: its weights are the roots of
            `w = psi'(s + d (b - n w))`, see `gtddp_jax/game/own.py`; found here by bisection.
        bounds: for "line", of the slopes, or None.
        coupled: so many stages at the beginning weigh all samples alike.

    Returns:
        The change of the parameters, `{player: tree}`.

    Raises:
        ValueError: unknown `terminal` or `rollout`.
    """
    if terminal not in TERMINALS:
        raise ValueError(f"Invalid terminal: {terminal!r}. Supported: {TERMINALS}.")
    if rollout not in ("linear", "nonlinear"):
        raise ValueError(f"Invalid rollout: {rollout!r}. Supported: ('linear', 'nonlinear').")
    batch = inputs.shape[0]
    states: list[States] = [(inputs,)]
    for stage in stages:
        states.append(stage(params, states[-1]))
    model = _terminal(terminal, loss, states[-1][0], max_shift, bounds)
    own = [ravel_pytree({name: params[name] for name in stage.players}) for stage in stages]
    gradients, adjoints = sample_gradients(stages, params, states, loss)
    adjoints.append(jax.grad(lambda s: loss(s[0]).sum())(states[-1]))
    pi, d = jnp.zeros(batch), jnp.ones(batch)
    plans: list[tuple[jax.Array, Gains, jax.Array, jax.Array, tuple | None]] = []
    for t in reversed(range(len(stages))):
        big, (flat, _) = gradients[t], own[t]
        cost = jnp.zeros_like(flat)
        if running is not None:
            cost, _ = ravel_pytree({name: running[name] for name in stages[t].players})
        if t < coupled:
            plans.insert(0, (cost, gains(t, cost + big.mean(0)), pi, d, None))
            continue
        gain = gains(t, cost + model.slope(pi) @ big / batch)
        rho = model.bends * d * jnp.einsum("im,mn,in->i", big, gain.inverse, big) / batch
        if own_curvature:
            b = big @ gain.respond(cost)
            own_step = (b, b - big @ gain.respond(cost + big.mean(0)))
            plans.insert(0, (cost, gain, pi, d, own_step))
            a = _root(model, pi, d, *own_step)
            pi, d = pi + d * (big @ gain.respond(cost + a @ big / batch)), d / (1 + rho)
        else:
            plans.insert(0, (cost, gain, pi, d, None))
            pi, d = pi + d * (big @ gain.k), d * (1 - rho)
    delta, new, moved = jnp.zeros(batch), dict(params), states[0]
    for t, (cost, gain, pi, d, own_step) in enumerate(plans):
        big, (flat, unravel) = gradients[t], own[t]
        if own_step is None:
            w = model.slope(pi + d * delta)
            step = gain.k if t == 0 or t < coupled else gain.respond(cost + w @ big / batch)
        else:
            w = _root(model, pi + d * delta, d, *own_step)
            step = gain.respond(cost + w @ big / batch)
        new.update(unravel(flat + step))
        if rollout == "linear":
            delta = delta + big @ step
        else:
            moved = stages[t](new, moved)
            changes = zip(adjoints[t + 1], moved, states[t + 1], strict=True)
            delta = sum(((g * (a - b)).reshape(batch, -1).sum(-1) for g, a, b in changes), 0 * d)
    return {name: jax.tree.map(jnp.subtract, new[name], params[name]) for name in new}
