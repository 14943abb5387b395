"""`gtddp`: the sequential game as an optax transformation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.report import Observe
from gtddp_jax.core.types import AxisName, Loss, Tree
from gtddp_jax.curvature import Curvature
from gtddp_jax.game.sequential import Game, GTDDPState
from gtddp_jax.network.protocol import Playable
from gtddp_jax.terminal import Terminal, line

BOUNDS = (0.02, 10.0)
"""The default bounds of the weights. Without them a sample whose gradient nearly vanishes gets
weights without limit (docs/evidence.md)."""


def gtddp(
    net: Playable,
    loss: Loss,
    curvature: Curvature,
    *,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree = None,
) -> optax.GradientTransformationExtraArgs:
    """Game-theoretic differential dynamic programming on an explicit residual network.

    Every layer weights each sample's gradient by how much the layers after it and before it are
    already doing for that sample in the same step (DESIGN §2, §3; paper Alg. 1, Eq. 6, 9, 14).

    The transformation computes the gradient itself: `update` takes the batch, and what arrives as
    `updates` is the gradient of the running cost (a regulariser), zeros or None if there is none.

    Args:
        net: the network.
        loss: `loss(outputs, targets) -> [B]`, twice differentiable, one number a sample.
        curvature: the base method, from `gtddp_jax.curvature`; the learning rate is in it.
        feedback: False for the base method itself, through the same code.
        terminal: the terminal model, from `gtddp_jax.terminal`; default
            `line(max_shift=1.0, bounds=(0.02, 10.0))`, the true loss within reach, weights bounded.
        rollout: "linear" (cheap) or "nonlinear" (the paper's; one more forward pass).
        own_curvature: whether a stage answers to its own step too, `Q_uu = P^-1 + f_u^T V_xx f_u`
            (paper Eq. 25, DESIGN §4); False for the paper's Table 1, `Q_uu = P^-1`. It trains
            better where rates are bold, and costs two more sums over samples a stage.
        axis_name: the mapped axis of `pmap` or `shard_map` over which samples are spread. Under
            `jit` with a sharded batch nothing is needed.
        batch_stats: for a network with `nn.BatchNorm`, the running statistics to begin with, from
            `net.init_variables`.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose `update` needs `params` and
        `batch=(inputs, targets)`, inputs [B, ...], and `rngs={"dropout": key}` for a network with
        `nn.Dropout`. Its state has a `report` and the running `batch_stats`. To look at the weights
        of single samples give `update` a function, `observe=seen.append`: it gets them, an array
        [stages, B], while `update` is traced.

    Raises:
        ValueError: an argument of the wrong kind, named with what is supported.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(8), nn.tanh, gt.Residual([nn.Dense(8)]), nn.Dense(3)])
        >>> x, y = jnp.ones((4, 5)), jnp.array([0, 1, 2, 0])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.gtddp(net, loss, gt.curvature.adam(1e-3))
        >>> params = net.init(jax.random.key(0), x)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(None, state, params, batch=(x, y))
        >>> params = optax.apply_updates(params, updates)
        >>> bool(state.report.skipped)
        False
    """
    terminal = line(max_shift=1.0, bounds=BOUNDS) if terminal is None else terminal
    game = Game(net, loss, curvature, feedback, terminal, rollout, axis_name, own_curvature)
    start = net.initial_batch_stats(batch_stats, axis_name)

    def init(params: Tree) -> GTDDPState:
        return game.init(params, start)

    def update(
        updates: Tree,
        state: Any,
        params: Tree = None,
        *,
        batch: Any = None,
        rngs: Any = None,
        observe: Observe | None = None,
        **extra_args: Any,
    ) -> tuple[Tree, GTDDPState]:
        del extra_args
        return game.update(updates, state, params, batch, rngs, observe)

    return optax.GradientTransformationExtraArgs(init, update)


def make_update(
    tx: optax.GradientTransformationExtraArgs,
) -> Callable[..., tuple[Tree, Tree]]:
    """The whole step, jitted: `params, state = step(params, state, batch, rngs=None)`.

    Args:
        tx: a transformation of this library, alone or in an optax chain.

    Returns:
        A function of `params`, `state`, `batch=(inputs, targets)` and, for a network with dropout,
        `rngs={"dropout": key}` that returns the new parameters and state. Its old arguments stay
        valid (nothing is donated).

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(2)])
        >>> params = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> tx = gt.sgd(net, lambda outputs, y: jnp.square(outputs - y).sum(-1), 1e-2)
        >>> step = gt.make_update(tx)
        >>> params, state = step(params, tx.init(params), (jnp.ones((4, 3)), jnp.ones((4, 2))))
    """

    @jax.jit
    def step(
        params: Tree, state: Any, batch: tuple[Any, Any], rngs: Any = None
    ) -> tuple[Tree, Any]:
        zeros = jax.tree.map(jnp.zeros_like, params)
        extra = {} if rngs is None else {"rngs": rngs}
        updates, state = tx.update(zeros, state, params, batch=batch, **extra)
        return optax.apply_updates(params, updates), state

    return step
