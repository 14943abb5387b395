"""Influence of the base's response to a batch on each of its losses, by set of players.

`n_i = -G_i . (u(q) - u(0))` (docs/mathematics.md, "The implicit game"), computed by its definition:
one directional derivative of the losses per set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from gtddp_lab.studies.figures.figure_trainer import CROSS_ENTROPY
from gtddp_lab.training.model_call import train_outputs
from gtddp_lab.training.state import Params


def player_sets(net: gt.Network) -> dict[str, tuple[str, ...]]:
    """Return sets of players that could predict, for a chain of blocks of two layers and a head.

    Returns:
        By name: "head"; "last block", including the head; "spread": the head and the last layer of
        every second block; "first layer", alone.
    """
    names = [player_op.name for player_op in net.player_ops if _has_kernel(player_op.module)]
    blocks = names[1:-1]
    return {
        "head": (names[-1],),
        "last block": (*blocks[-2:], names[-1]),
        "spread": (*blocks[1::4], names[-1]),
        "first layer": (names[0],),
    }


def _has_kernel(module: Any) -> bool:
    return hasattr(module, "kernel_init")


def player_set_influences(
    net: gt.Network,
    base: optax.GradientTransformation,
    sets: Mapping[str, Sequence[str]],
    params: Params,
    state: gt.ImplicitState,
    batch: tuple[jax.Array, jax.Array],
) -> dict[str, jax.Array]:
    """Compute the influence n [B] of every set on one batch, and of all players under "all".

    Args:
        net: the network.
        base: the base optimizer.
        sets: names of players, by the name of the set.
        params: `{player: tree}`.
        state: state of `gtddp_jax.implicit` around `base`, with the batch statistics as its `aux`.
        batch: images [B, ...] and labels [B].
    """
    images, labels = batch
    batch_stats: Any = state.aux

    def losses(params: Any) -> jax.Array:
        key = jax.random.key(0)
        return CROSS_ENTROPY(train_outputs(net, params, batch_stats, images, key)[0], labels)

    gradient = jax.grad(lambda params: losses(params).mean())(params)
    whole_step, _ = base.update(gradient, state.base, params)
    # The step for a zero gradient is the momentum step u(0).
    zero_gradient = jax.tree.map(jnp.zeros_like, gradient)
    momentum_step, _ = base.update(zero_gradient, state.base, params)
    response: Any = jax.tree.map(jnp.subtract, whole_step, momentum_step)

    def influence(players: Sequence[str]) -> jax.Array:
        # Other players do not move in this prediction.
        selected = {
            name: tree if name in players else jax.tree.map(jnp.zeros_like, tree)
            for name, tree in response.items()
        }
        return -jax.jvp(losses, (params,), (selected,))[1]

    all_sets = {**sets, "all": tuple(params)}
    return {name: influence(players) for name, players in all_sets.items()}
