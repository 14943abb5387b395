"""What the base's answer to a batch does to each of its losses, player set by player set.

`n_i = -G_i . (u(q) - u(0))` (DESIGN §4), here by its definition: one directional derivative of the
losses a set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from gtddp_jax.evidence.figures.training import LOSS
from gtddp_jax.training.model import train_outputs

Tree = Any


def player_sets(net: gt.Network) -> dict[str, tuple[str, ...]]:
    """Sets of players that could predict, for a chain of blocks of two layers and a head.

    Returns:
        By name: "head"; "last block", with the head; "spread": the head and the last layer of every
        second block; "first layer", alone.
    """
    names = [act.name for act in net.acts if _has_kernel(act.module)]
    blocks = names[1:-1]
    return {
        "head": (names[-1],),
        "last block": (*blocks[-2:], names[-1]),
        "spread": (*blocks[1::4], names[-1]),
        "first layer": (names[0],),
    }


def _has_kernel(module: Any) -> bool:
    return hasattr(module, "kernel_init")


def influences(
    net: gt.Network,
    base: optax.GradientTransformation,
    sets: Mapping[str, Sequence[str]],
    params: Tree,
    state: Any,
    batch: tuple[jax.Array, jax.Array],
) -> dict[str, jax.Array]:
    """The influence n of every set on one batch, [B] each, and of all players under "all".

    Args:
        net: the network.
        base: the base optimizer.
        sets: names of players, by the set's name.
        params: `{player: tree}`.
        state: of `gtddp_jax.implicit` around `base`, with the network's statistics as its `aux`.
        batch: images [B, ...] and labels [B].
    """
    images, labels = batch

    def losses(params: Tree) -> jax.Array:
        key = jax.random.key(0)
        return LOSS(train_outputs(net, params, state.aux, images, key)[0], labels)

    gradient = jax.grad(lambda params: losses(params).mean())(params)
    moved, _ = base.update(gradient, state.base, params)
    rest, _ = base.update(jax.tree.map(jnp.zeros_like, gradient), state.base, params)
    answer = jax.tree.map(jnp.subtract, moved, rest)

    def of(players: Sequence[str]) -> jax.Array:
        chosen = {
            name: jax.tree.map(lambda x, own=name in players: x if own else jnp.zeros_like(x), tree)
            for name, tree in answer.items()
        }
        return -jax.jvp(losses, (params,), (chosen,))[1]

    return {name: of(players) for name, players in {**sets, "all": tuple(params)}.items()}
