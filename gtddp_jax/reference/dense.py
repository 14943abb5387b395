"""The algorithm by definition (DESIGN §2): dense matrices, Jacobians by autodiff.

Slow, independent of the fast path, for tiny networks in float64. It uses the stage protocol only:
`stage.players` and `stage(params, states)`.

| symbol    | meaning                                  | shape here                       |
|-----------|------------------------------------------|----------------------------------|
| V_x, V_xx | value gradient and Hessian of each group | [groups, N], [groups, N, N]      |
| f_x, f_u  | Jacobians of the dynamics of each group  | [groups, N', N], [groups, N', m] |
| Q_u, Q_uu | of the stage, all groups                 | [m], [m, m]                      |
| k, K      | open gain, feedback gain of each group   | [m], [groups, m, N]              |

A *group* is one sample (V_xx block-diagonal: the definition of GT-DDP), or the whole batch with its
states side by side (the previous DDP optimizer, whose V_x'x' is the subject of paper Fig. 4).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float, Shaped

from gtddp_jax.core.types import Tree
from gtddp_jax.network.program import Stage
from gtddp_jax.reference.hessians import PerSampleLoss


class Gains(NamedTuple):
    """What a curvature makes of one stage's Q_u.

    Attributes:
        k: open gain [m].
        inverse: (Q_uu)^-1 [m, m].
        respond: the final step [m] for the closed gradient `Q_u + sum Q_ux dx` [m].
    """

    k: Float[Array, " m"]
    inverse: Float[Array, "m m"]
    respond: Callable[[Float[Array, " m"]], Float[Array, " m"]]


GainRule: TypeAlias = Callable[
    [int, Float[Array, " m"], Float[Array, "m m"], Float[Array, "G N"]], Gains
]
"""`(stage, Q_u [m], f_u^T V_xx f_u [m, m], V_x of the next states [groups, N']) -> Gains`."""


class DenseStep(NamedTuple):
    """Everything that one step of the definition computes.

    Attributes:
        steps: the change of the parameters, `{player: tree}`.
        v_x: V_x of stages 0..T, each [groups, N].
        v_xx: V_xx of stages 0..T, each [groups, N, N].
        open_gains: k of each stage [m].
        feedback_gains: K of each stage [groups, m, N].
        f_x: Jacobians [groups, N', N] of each stage.
        f_u: Jacobians [groups, N', m] of each stage.
    """

    steps: Tree
    v_x: list[Float[Array, "G N"]]
    v_xx: list[Float[Array, "G N N"]]
    open_gains: list[Float[Array, " m"]]
    feedback_gains: list[Float[Array, "G m N"]]
    f_x: list[Float[Array, "G N2 N"]]
    f_u: list[Float[Array, "G N2 m"]]


def preconditioned(inverse: Callable[[int, Float[Array, " m"]], Float[Array, "m m"]]) -> GainRule:
    """The gain rule `k = -P Q_u`, `K = -P Q_ux` for `inverse(stage, Q_u) -> P [m, m]`."""

    def rule(t: int, q_u: jax.Array, own: jax.Array, value: jax.Array) -> Gains:
        del own, value
        p = inverse(t, q_u)
        return Gains(-p @ q_u, p, lambda closed: -p @ closed)

    return rule


def with_own_curvature(metric: Callable[[int], Float[Array, "m m"]]) -> GainRule:
    """`Q_uu = metric(stage) + f_u^T V_xx f_u`: Eq. 25, both terms kept (DESIGN §4)."""

    def rule(t: int, q_u: jax.Array, own: jax.Array, value: jax.Array) -> Gains:
        del value
        p = jnp.linalg.inv(metric(t) + own)
        return Gains(-p @ q_u, p, lambda closed: -p @ closed)

    return rule


def ddp_step(
    stages: Sequence[Stage],
    params: Tree,
    inputs: Shaped[Array, "B ..."],
    loss: PerSampleLoss,
    hessian: Callable[[PerSampleLoss, Float[Array, "B ..."]], Float[Array, "B n n"]],
    gains: GainRule,
    *,
    running: Tree | None = None,
    rollout: str = "nonlinear",
    coupling: str = "samples",
) -> DenseStep:
    """One step of differential dynamic programming, literally.

    Args:
        stages: the dynamics.
        params: `{player: tree}`.
        inputs: [B, ...].
        loss: outputs [B, ...] -> [B].
        hessian: `(loss, outputs) -> [B, n, n]`, the model of the Hessian of each sample's loss.
        gains: the curvature, see `preconditioned` and `with_own_curvature`.
        running: gradients of the running cost, `{player: tree}`, or None.
        rollout: "nonlinear" (the definition) or "linear" (states follow the Jacobians).
        coupling: "samples" for a block-diagonal V_xx, "batch" for the batch-augmented one.

    Returns:
        The step and all that led to it.

    Raises:
        ValueError: unknown `rollout` or `coupling`.
    """
    if rollout not in ("linear", "nonlinear"):
        raise ValueError(f"Invalid rollout: {rollout!r}. Supported: ('linear', 'nonlinear').")
    if coupling not in ("samples", "batch"):
        raise ValueError(f"Invalid coupling: {coupling!r}. Supported: ('samples', 'batch').")
    batch = inputs.shape[0]
    states: list[tuple[jax.Array, ...]] = [(inputs,)]
    for stage in stages:
        states.append(stage(params, states[-1]))
    grouped = _together if coupling == "batch" else (lambda blocks: blocks)
    flat = [_flatten(s) for s in states]
    jacobians = [_jacobians(s, params, x, batch) for s, x in zip(stages, states, strict=False)]
    f_x = [grouped(a) for a, _ in jacobians]
    f_u = [_stack(b) if coupling == "batch" else b for _, b in jacobians]
    outputs = states[-1][0]
    v_x = [_rows(jax.grad(lambda o: loss(o).sum())(outputs).reshape(batch, -1), coupling) / batch]
    v_xx = [grouped(hessian(loss, outputs)) / batch]
    results: list[Gains] = []
    feedback: list[jax.Array] = []
    q_u_all: list[jax.Array] = []
    q_ux_all: list[jax.Array] = []
    for t in reversed(range(len(stages))):
        fx, fu, vx, vxx = f_x[t], f_u[t], v_x[0], v_xx[0]
        cost = jnp.zeros(fu.shape[-1]) if running is None else _own(running, stages[t])[0]
        q_u = cost + jnp.einsum("gnm,gn->m", fu, vx)
        q_x = jnp.einsum("gpn,gp->gn", fx, vx)
        q_ux = jnp.einsum("gpm,gpq,gqn->gmn", fu, vxx, fx)
        q_xx = jnp.einsum("gpn,gpq,gqr->gnr", fx, vxx, fx)
        gain = gains(t, q_u, jnp.einsum("gpm,gpq,gqr->mr", fu, vxx, fu), vx)
        big_k = -jnp.einsum("mr,grn->gmn", gain.inverse, q_ux)
        v_x.insert(0, q_x + jnp.einsum("gmn,m->gn", q_ux, gain.k))
        v_xx.insert(0, q_xx + jnp.einsum("gmn,gmr->gnr", q_ux, big_k))
        results.insert(0, gain)
        feedback.insert(0, big_k)
        q_u_all.insert(0, q_u)
        q_ux_all.insert(0, q_ux)
    new_params, delta = dict(params), jnp.zeros_like(_rows(flat[0], coupling))
    moved = states[0]
    for t, stage in enumerate(stages):
        if t > 0 and rollout == "nonlinear":
            delta = _rows(_flatten(moved) - flat[t], coupling)
        closed = q_u_all[t] + jnp.einsum("gmn,gn->m", q_ux_all[t], delta)
        step = results[t].k if t == 0 else results[t].respond(closed)
        own, unravel = _own(params, stage)
        new_params.update(unravel(own + step))
        if rollout == "linear":
            delta = jnp.einsum("gpn,gn->gp", f_x[t], delta) + f_u[t] @ step
        else:
            moved = stage(new_params, moved)
    steps = {
        name: jax.tree.map(jnp.subtract, new_params[name], params[name])
        for stage in stages
        for name in stage.players
    }
    return DenseStep(steps, v_x, v_xx, [g.k for g in results], feedback, f_x, f_u)


def _flatten(states: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.concatenate([s.reshape(s.shape[0], -1) for s in states], axis=1)


def _own(params: Tree, stage: Stage) -> tuple[jax.Array, Callable[[jax.Array], Tree]]:
    return ravel_pytree({name: params[name] for name in stage.players})


def _jacobians(
    stage: Stage, params: Tree, states: tuple[jax.Array, ...], batch: int
) -> tuple[jax.Array, jax.Array]:
    """f_x [B, n', n] and f_u [B, n', m] of one stage, sample by sample."""
    u, unravel_u = _own(params, stage)

    def jacobian(i: int) -> tuple[jax.Array, jax.Array]:
        x, unravel_x = ravel_pytree(tuple(s[i : i + 1] for s in states))

        def f(x: jax.Array, u: jax.Array) -> jax.Array:
            return _flatten(stage({**params, **unravel_u(u)}, unravel_x(x)))[0]

        return jax.jacfwd(f, argnums=(0, 1))(x, u)

    pairs = [jacobian(i) for i in range(batch)]
    return jnp.stack([a for a, _ in pairs]), jnp.stack([b for _, b in pairs])


def _together(blocks: jax.Array) -> jax.Array:
    return block_diag(*blocks)[None]


def _stack(blocks: jax.Array) -> jax.Array:
    return blocks.reshape(1, -1, blocks.shape[-1])


def _rows(rows: jax.Array, coupling: str) -> jax.Array:
    return rows.reshape(1, -1) if coupling == "batch" else rows
