"""Differential dynamic programming by definition: dense matrices, Jacobians by autodiff.

This is docs/mathematics.md, "2. The algorithm by definition". It is slow and shares no code with
the optimizer; use it for tiny networks in float64. Of a stage it needs only `stage.players` and
`stage(params, states)`.

| symbol    | meaning                                  | shape here                       |
|-----------|------------------------------------------|----------------------------------|
| V_x, V_xx | value gradient and Hessian of each group | [groups, N], [groups, N, N]      |
| f_x, f_u  | Jacobians of the dynamics of each group  | [groups, N', N], [groups, N', m] |
| Q_u, Q_uu | derivatives of the stage, all groups     | [m], [m, m]                      |
| k, K      | open gain, feedback gain of each group   | [m], [groups, m, N]              |

A *group* is one sample (V_xx is block-diagonal, the definition of GT-DDP), or the whole batch with
its states side by side (the previous DDP optimizer, whose V_x'x' is the subject of paper Fig. 4).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float, Shaped

from gtddp_jax.core.types import PlayerTrees, Tree
from gtddp_jax.network.program import Stage, States
from gtddp_jax.reference.hessians import PerSampleLoss


class Gains(NamedTuple):
    """The gains of one stage, computed from its Q_u.

    Attributes:
        open_gain: k [m].
        inverse: (Q_uu)^-1 [m, m].
        closed_loop_step: maps the closed-loop gradient `Q_u + sum_i Q_ux,i dx_i` [m] to the stage's
            step [m].
    """

    open_gain: Float[Array, " m"]
    inverse: Float[Array, "m m"]
    closed_loop_step: Callable[[Float[Array, " m"]], Float[Array, " m"]]


GainRule: TypeAlias = Callable[
    [int, Float[Array, " m"], Float[Array, "m m"], Float[Array, "G N"]], Gains
]
"""`(stage, Q_u [m], f_u^T V_xx f_u [m, m], V_x of the next states [groups, N']) -> Gains`."""


class DenseStep(NamedTuple):
    """All results of one step.

    Attributes:
        steps: the changes of the parameters, `{player: tree}`.
        v_x: V_x of stages 0..T, each [groups, N].
        v_xx: V_xx of stages 0..T, each [groups, N, N].
        open_gains: k of each stage [m].
        feedback_gains: K of each stage [groups, m, N].
        f_x: Jacobians [groups, N', N] of each stage.
        f_u: Jacobians [groups, N', m] of each stage.
    """

    steps: PlayerTrees
    v_x: list[Float[Array, "G N"]]
    v_xx: list[Float[Array, "G N N"]]
    open_gains: list[Float[Array, " m"]]
    feedback_gains: list[Float[Array, "G m N"]]
    f_x: list[Float[Array, "G N2 N"]]
    f_u: list[Float[Array, "G N2 m"]]


def preconditioned_gains(
    inverse: Callable[[int, Float[Array, " m"]], Float[Array, "m m"]],
) -> GainRule:
    """The gain rule `k = -P Q_u`, `K = -P Q_ux` for `inverse(stage, Q_u) -> P [m, m]`."""

    def gain_rule(t: int, q_u: jax.Array, stage_curvature: jax.Array, v_x: jax.Array) -> Gains:
        del stage_curvature, v_x
        p = inverse(t, q_u)
        return Gains(-p @ q_u, p, lambda closed_gradient: -p @ closed_gradient)

    return gain_rule


def stage_curvature_gains(metric: Callable[[int], Float[Array, "m m"]]) -> GainRule:
    """The gain rule with `Q_uu = metric(stage) + f_u^T V_xx f_u`, both terms of paper Eq. 25."""

    def gain_rule(t: int, q_u: jax.Array, stage_curvature: jax.Array, v_x: jax.Array) -> Gains:
        del v_x
        p = jnp.linalg.inv(metric(t) + stage_curvature)
        return Gains(-p @ q_u, p, lambda closed_gradient: -p @ closed_gradient)

    return gain_rule


def ddp_step(
    stages: Sequence[Stage],
    params: PlayerTrees,
    inputs: Shaped[Array, "B ..."],
    loss: PerSampleLoss,
    hessian: Callable[[PerSampleLoss, Float[Array, "B ..."]], Float[Array, "B n n"]],
    gain_rule: GainRule,
    *,
    running_gradient: PlayerTrees | None = None,
    rollout: str = "nonlinear",
    coupling: str = "samples",
) -> DenseStep:
    """One step of differential dynamic programming, literally.

    Args:
        stages: the dynamics.
        params: `{player: tree}`.
        inputs: [B, ...].
        loss: maps outputs [B, ...] to losses [B].
        hessian: `(loss, outputs) -> [B, n, n]`, the model of the Hessian of each sample's loss.
        gain_rule: the curvature, see `preconditioned_gains` and `stage_curvature_gains`.
        running_gradient: the gradient of the running cost, `{player: tree}`, or None.
        rollout: "nonlinear" (the definition) or "linear" (states follow the Jacobians).
        coupling: "samples" for a block-diagonal V_xx, "batch" for the batch-augmented V_xx.

    Returns:
        The step and the quantities it was computed from.

    Raises:
        ValueError: unknown `rollout` or `coupling`.
    """
    if rollout not in ("linear", "nonlinear"):
        raise ValueError(f"Invalid rollout: {rollout!r}. Supported: ('linear', 'nonlinear').")
    if coupling not in ("samples", "batch"):
        raise ValueError(f"Invalid coupling: {coupling!r}. Supported: ('samples', 'batch').")
    batch = inputs.shape[0]
    states: list[States] = [(inputs,)]
    for stage in stages:
        states.append(stage(params, states[-1]))
    f_x, f_u = _stage_jacobians(stages, params, states, coupling)
    outputs = states[-1][0]
    output_gradient = jax.grad(lambda outputs: loss(outputs).sum())(outputs).reshape(batch, -1)
    # The objective is the mean of the losses, hence the division by the batch size.
    end_v_x = _group_rows(output_gradient, coupling) / batch
    end_v_xx = _group_blocks(hessian(loss, outputs), coupling) / batch
    costs = [
        jnp.zeros(jacobian.shape[-1])
        if running_gradient is None
        else _ravel_players(running_gradient, stage)[0]
        for stage, jacobian in zip(stages, f_u, strict=True)
    ]
    backward = _backward_pass(costs, f_x, f_u, end_v_x, end_v_xx, gain_rule)
    steps = _rollout(stages, params, states, backward, f_x, f_u, rollout, coupling)
    open_gains = [gains.open_gain for gains in backward.gains]
    return DenseStep(
        steps, backward.v_x, backward.v_xx, open_gains, backward.feedback_gains, f_x, f_u
    )


class _BackwardPass(NamedTuple):
    """V_x and V_xx of stages 0..T, and the gains and derivatives of stages 0..T-1."""

    v_x: list[jax.Array]
    v_xx: list[jax.Array]
    gains: list[Gains]
    feedback_gains: list[jax.Array]
    q_u: list[jax.Array]
    q_ux: list[jax.Array]


def _backward_pass(
    costs: Sequence[jax.Array],
    f_x: Sequence[jax.Array],
    f_u: Sequence[jax.Array],
    end_v_x: jax.Array,
    end_v_xx: jax.Array,
    gain_rule: GainRule,
) -> _BackwardPass:
    """Bellman's recursion from the last stage to the first."""
    result = _BackwardPass([end_v_x], [end_v_xx], [], [], [], [])
    for t in reversed(range(len(costs))):
        fx, fu, vx, vxx = f_x[t], f_u[t], result.v_x[0], result.v_xx[0]
        # Q = l + V(f(x, u)), expanded to second order; terms with f_xx, f_ux and f_uu are dropped.
        q_u = costs[t] + jnp.einsum("gnm,gn->m", fu, vx)
        q_x = jnp.einsum("gpn,gp->gn", fx, vx)
        q_ux = jnp.einsum("gpm,gpq,gqn->gmn", fu, vxx, fx)
        q_xx = jnp.einsum("gpn,gpq,gqr->gnr", fx, vxx, fx)
        gains = gain_rule(t, q_u, jnp.einsum("gpm,gpq,gqr->mr", fu, vxx, fu), vx)
        feedback_gain = -jnp.einsum("mr,grn->gmn", gains.inverse, q_ux)
        # The value after minimizing over u: V_x = Q_x + Q_xu k, V_xx = Q_xx + Q_xu K.
        result.v_x.insert(0, q_x + jnp.einsum("gmn,m->gn", q_ux, gains.open_gain))
        result.v_xx.insert(0, q_xx + jnp.einsum("gmn,gmr->gnr", q_ux, feedback_gain))
        result.gains.insert(0, gains)
        result.feedback_gains.insert(0, feedback_gain)
        result.q_u.insert(0, q_u)
        result.q_ux.insert(0, q_ux)
    return result


def _rollout(
    stages: Sequence[Stage],
    params: PlayerTrees,
    states: Sequence[States],
    backward: _BackwardPass,
    f_x: Sequence[jax.Array],
    f_u: Sequence[jax.Array],
    rollout: str,
    coupling: str,
) -> PlayerTrees:
    """The steps of all stages, `{player: tree}`, from the first stage to the last."""
    new_params, new_states = dict(params), states[0]
    state_change = jnp.zeros_like(_group_rows(_flatten_states(states[0]), coupling))
    for t, stage in enumerate(stages):
        if t > 0 and rollout == "nonlinear":
            change = _flatten_states(new_states) - _flatten_states(states[t])
            state_change = _group_rows(change, coupling)
        feedback = jnp.einsum("gmn,gn->m", backward.q_ux[t], state_change)
        gains = backward.gains[t]
        # No state has changed before the first stage: its step is the open gain.
        step = gains.open_gain if t == 0 else gains.closed_loop_step(backward.q_u[t] + feedback)
        # The step is that of all players at once, in the order in which they are flattened.
        flat_params, unravel = _ravel_players(params, stage)
        new_params.update(unravel(flat_params + step))
        if rollout == "linear":
            state_change = jnp.einsum("gpn,gn->gp", f_x[t], state_change) + f_u[t] @ step
        else:
            new_states = stage(new_params, new_states)
    return {
        name: jax.tree.map(jnp.subtract, new_params[name], params[name])
        for stage in stages
        for name in stage.players
    }


def _flatten_states(states: States) -> jax.Array:
    """All states of each sample side by side, [B, n]."""
    return jnp.concatenate([state.reshape(state.shape[0], -1) for state in states], axis=1)


def _ravel_players(
    params: PlayerTrees, stage: Stage
) -> tuple[jax.Array, Callable[[jax.Array], dict[str, Tree]]]:
    """The parameters of a stage's players as one vector [m], and the inverse map."""
    return ravel_pytree({name: params[name] for name in stage.players})


def _stage_jacobians(
    stages: Sequence[Stage], params: PlayerTrees, states: Sequence[States], coupling: str
) -> tuple[list[jax.Array], list[jax.Array]]:
    """f_x and f_u of every stage, by group."""
    f_x, f_u = [], []
    for stage, stage_states in zip(stages, states, strict=False):  # the last states are outputs
        by_states, by_params = _sample_jacobians(stage, params, stage_states)
        f_x.append(_group_blocks(by_states, coupling))
        rows = by_params.reshape(1, -1, by_params.shape[-1])
        f_u.append(rows if coupling == "batch" else by_params)
    return f_x, f_u


def _sample_jacobians(
    stage: Stage, params: PlayerTrees, states: States
) -> tuple[jax.Array, jax.Array]:
    """f_x [B, n', n] and f_u [B, n', m] of one stage, one sample after the other."""
    u, unravel_params = _ravel_players(params, stage)

    def jacobians_of(sample: int) -> tuple[jax.Array, jax.Array]:
        x, unravel_states = ravel_pytree(tuple(state[sample : sample + 1] for state in states))

        def dynamics(x: jax.Array, u: jax.Array) -> jax.Array:
            new_states = stage({**params, **unravel_params(u)}, unravel_states(x))
            return _flatten_states(new_states)[0]

        return jax.jacfwd(dynamics, argnums=(0, 1))(x, u)

    # A plain loop over samples: literal, not fast.
    pairs = [jacobians_of(sample) for sample in range(states[0].shape[0])]
    by_states, by_params = zip(*pairs, strict=True)
    return jnp.stack(by_states), jnp.stack(by_params)


def _group_blocks(blocks: jax.Array, coupling: str) -> jax.Array:
    """Blocks [B, p, n] of the samples as blocks of the groups; a batch has one, block-diagonal."""
    return block_diag(*blocks)[None] if coupling == "batch" else blocks


def _group_rows(rows: jax.Array, coupling: str) -> jax.Array:
    """Rows [B, n] of the samples as rows of the groups."""
    return rows.reshape(1, -1) if coupling == "batch" else rows
