"""The previous DDP optimizer on a whole batch: V_x'x' with all its blocks (paper Alg. 1, Sec. 4.2).

All samples stand side by side in one state x' of D = B n numbers, and V_x'x' [D, D] is kept and
propagated as it is. Jacobians are never formed: `f_x` and `f_u` are applied by backpropagation to
the rows of V_x'x'. What remains is what the method needs: V_x'x' of one stage at a time, and
`Q_x'u` [D, m] of every stage for the feedback gains `K = -P Q_ux'`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag

import gtddp_jax as gt

Tree = Any


class _Policy(NamedTuple):
    """Of one stage: the open gain k [m], and Q_x'u [D, m], which is None in the first stage."""

    k: jax.Array
    q_xu: jax.Array | None


def batch_augmented_step(
    net: gt.Network, loss: Callable[[Any, Any], jax.Array], learning_rate: float
) -> Callable[[Tree, Any], Tree]:
    """One step of DDP with the batch-augmented value Hessian.

    The terminal Hessian is exact, Q_uu = (1/learning rate) I, and the rollout nonlinear.

    Args:
        net: a network without batch normalisation and dropout.
        loss: `loss(outputs, targets) -> [B]`.
        learning_rate: of P.

    Returns:
        A function `(params, (inputs, targets)) -> new params`, to be jitted.
    """

    def step(params: Tree, batch: Any) -> Tree:
        inputs, targets = batch
        trajectory, pullbacks = [(inputs,)], []
        for stage in net.stages:
            own = {name: params[name] for name in stage.players}

            def move(own: Tree, states: Any, stage: Any = stage) -> Any:
                return stage({**params, **own}, states)

            after, pullback = jax.vjp(move, own, trajectory[-1])
            trajectory.append(after)
            pullbacks.append(pullback)
        (outputs,) = trajectory[-1]
        samples = len(outputs)

        def losses(outputs: jax.Array) -> jax.Array:
            return loss(outputs, targets)

        v_x = jax.grad(lambda o: losses(o).sum())(outputs).ravel() / samples
        v_xx = block_diag(*gt.reference.HESSIANS["exact"](losses, outputs)) / samples
        policies: list[_Policy] = []
        for t in reversed(range(len(pullbacks))):
            policy, v_x, v_xx = _backward(
                pullbacks[t], trajectory[t + 1], v_x, v_xx, learning_rate, first=t == 0
            )
            policies.insert(0, policy)
        return _rollout(net, params, trajectory, policies, learning_rate)

    return step


def _backward(
    pullback: Any,
    after: Any,
    v_x: jax.Array,
    v_xx: jax.Array,
    learning_rate: float,
    *,
    first: bool,
) -> tuple[_Policy, jax.Array, jax.Array]:
    """Eq. 6 for one stage; the first stage needs no feedback, for its states never change."""
    unravel = ravel_pytree(after)[1]

    def pulled(cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        own, states = pullback(unravel(cotangent))
        return ravel_pytree(own)[0], ravel_pytree(states)[0]

    q_u, q_x = pulled(v_x)
    k = -learning_rate * q_u
    if first:
        return _Policy(k, None), v_x, v_xx
    half = jax.vmap(pulled)(v_xx)[1]  # V f_x, [D', D]
    q_xu, q_xx = jax.vmap(pulled, in_axes=1)(half)  # [D, m], [D, D]
    return _Policy(k, q_xu), q_x + q_xu @ k, q_xx - learning_rate * q_xu @ q_xu.T


def _rollout(
    net: gt.Network, params: Tree, old: list[Any], policies: list[_Policy], learning_rate: float
) -> Tree:
    """Lines 7 to 11 of Alg. 1."""
    new, states = dict(params), old[0]
    for t, (stage, policy) in enumerate(zip(net.stages, policies, strict=True)):
        step = policy.k
        if policy.q_xu is not None:
            change = ravel_pytree(jax.tree.map(jnp.subtract, states, old[t]))[0]
            step = step - learning_rate * policy.q_xu.T @ change
        own, unravel = ravel_pytree({name: params[name] for name in stage.players})
        new.update(unravel(own + step))
        states = stage(new, states)
    return new
