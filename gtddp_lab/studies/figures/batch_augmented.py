"""The previous DDP optimizer on a whole batch: V_x'x' with all its blocks (paper Alg. 1, Sec. 4.2).

| symbol | meaning                                                             | shape  |
|--------|---------------------------------------------------------------------|--------|
| x'     | states of all samples side by side, D = B n numbers                 | [D]    |
| V_x'x' | value Hessian, propagated with all its blocks                       | [D, D] |
| Q_x'u  | mixed derivative of a stage, kept for the gains K = -P Q_ux'        | [D, m] |
| k      | open gain of a stage, -P Q_u                                        | [m]    |
| P      | (Q_uu)^-1 = learning rate x identity                                |        |

Jacobians are never formed: `f_x` and `f_u` act on the rows of V_x'x' by backpropagation. Only one
V_x'x' exists at a time, but Q_x'u of every stage is kept for the rollout.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag

import gtddp_jax as gt
from gtddp_lab.training.state import Params
from gtddp_lab.training.steps import SampleLoss

LiveStates: TypeAlias = tuple[jax.Array, ...]
"""The live states between two stages."""


class _StagePolicy(NamedTuple):
    """Gains of one stage: k [m], and Q_x'u [D, m], which is None in the first stage."""

    open_gain: jax.Array
    q_xu: jax.Array | None


def batch_augmented_step(
    net: gt.Network, loss: SampleLoss, learning_rate: float
) -> Callable[[Params, Any], Params]:
    """Make a step of DDP with the batch-augmented value Hessian.

    The terminal Hessian is exact, Q_uu = (1/learning rate) I, and the rollout is nonlinear.

    Args:
        net: a network without batch normalisation and dropout.
        loss: `loss(outputs, targets) -> [B]`.
        learning_rate: the learning rate, which determines P.

    Returns:
        A function `(params, (inputs, targets)) -> new params` for `jax.jit`.
    """

    def step(params: Params, batch: Any) -> Params:
        inputs, targets = batch
        trajectory: list[LiveStates] = [(inputs,)]
        pullbacks = []
        for stage in net.stages:
            stage_params = {name: params[name] for name in stage.players}

            def run_stage(
                stage_params: Params, states: LiveStates, stage: gt.Stage = stage
            ) -> LiveStates:
                return stage({**params, **stage_params}, states)

            next_states, pullback = jax.vjp(run_stage, stage_params, trajectory[-1])
            trajectory.append(next_states)
            pullbacks.append(pullback)
        (outputs,) = trajectory[-1]
        samples = len(outputs)

        def losses(outputs: jax.Array) -> jax.Array:
            return loss(outputs, targets)

        v_x = jax.grad(lambda outputs: losses(outputs).sum())(outputs).ravel() / samples
        v_xx = block_diag(*gt.reference.HESSIANS["exact"](losses, outputs)) / samples
        policies: list[_StagePolicy] = []
        for number in reversed(range(len(pullbacks))):
            policy, v_x, v_xx = _backward_stage(
                pullbacks[number],
                trajectory[number + 1],
                v_x,
                v_xx,
                learning_rate,
                is_first=number == 0,
            )
            policies.insert(0, policy)
        return _nonlinear_rollout(net, params, trajectory, policies, learning_rate)

    return step


def _backward_stage(
    pullback: Callable[[Any], Any],
    next_states: LiveStates,
    v_x: jax.Array,
    v_xx: jax.Array,
    learning_rate: float,
    *,
    is_first: bool,
) -> tuple[_StagePolicy, jax.Array, jax.Array]:
    """Eq. 6 for one stage. The first stage needs no feedback, because its states never change."""
    unravel = ravel_pytree(next_states)[1]

    def pull_back(cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_params, of_states = pullback(unravel(cotangent))
        return ravel_pytree(of_params)[0], ravel_pytree(of_states)[0]

    q_u, q_x = pull_back(v_x)
    open_gain = -learning_rate * q_u
    if is_first:
        return _StagePolicy(open_gain, None), v_x, v_xx
    half = jax.vmap(pull_back)(v_xx)[1]  # V f_x, [D', D]
    q_xu, q_xx = jax.vmap(pull_back, in_axes=1)(half)  # [D, m], [D, D]
    policy = _StagePolicy(open_gain, q_xu)
    return policy, q_x + q_xu @ open_gain, q_xx - learning_rate * q_xu @ q_xu.T


def _nonlinear_rollout(
    net: gt.Network,
    params: Params,
    old_trajectory: Sequence[LiveStates],
    policies: Sequence[_StagePolicy],
    learning_rate: float,
) -> Params:
    """Lines 7 to 11 of Alg. 1."""
    new_params, states = dict(params), old_trajectory[0]
    for number, (stage, policy) in enumerate(zip(net.stages, policies, strict=True)):
        step = policy.open_gain
        if policy.q_xu is not None:
            change = ravel_pytree(jax.tree.map(jnp.subtract, states, old_trajectory[number]))[0]
            step = step - learning_rate * policy.q_xu.T @ change
        flat, unravel = ravel_pytree({name: params[name] for name in stage.players})
        new_params.update(unravel(flat + step))
        states = stage(new_params, states)
    return new_params
