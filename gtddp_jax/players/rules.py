"""The cost rule: how each player's sums over samples are computed, chosen by shape (DESIGN §6).

| rule         | when                                        | held                             |
|--------------|---------------------------------------------|----------------------------------|
| `factored`   | dense with one position a sample            | nothing                          |
| `kept`       | feedback on, B x parameters <= `keep_limit` | B numbers a parameter            |
| `recomputed` | otherwise, and always with feedback off     | one chunk during quadratic forms |

A new kind of layer is one file with its per-sample gradients and one entry in `KINDS`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from gtddp_jax.network.program import Act
from gtddp_jax.players import conv, dense
from gtddp_jax.players.base import Kept, SampleGradients, Tree
from gtddp_jax.players.dense import Factored
from gtddp_jax.players.layers import ConvLayer, DenseLayer, OtherLayer
from gtddp_jax.players.recomputed import PerSample, Recomputed, by_vjp, chunk_size

ALWAYS_KEPT = 2**20
"""Numbers (B x parameters) up to which a player's per-sample gradients are kept in any case."""

Shaped = Any  # jax.Array | jax.ShapeDtypeStruct
Gradients = Callable[[Act, jax.Array, jax.Array], Tree]

Layer = nn.Module | DenseLayer | ConvLayer | OtherLayer

KINDS: dict[str, tuple[Callable[[Any, tuple[int, ...]], bool], Gradients]] = {
    "dense": (lambda module, shape: dense.is_dense(module), dense.per_sample_gradients),
    "conv": (conv.is_conv, conv.per_sample_gradients),
}
GENERIC = "generic"


def kind(module: Layer, shape: tuple[int, ...]) -> str:
    """The kind of a player with inputs of `shape` [B, ...]: a key of `KINDS`, or 'generic'."""
    for name, (matches, _) in KINDS.items():
        if matches(module, shape):
            return name
    return GENERIC


def keep_limit(x: Shaped, g: Shaped) -> int:
    """Numbers that a player's kept gradients may take: what its inputs and outputs take."""
    return max(ALWAYS_KEPT, math.prod(x.shape) + math.prod(g.shape))


def rule(module: nn.Module, x: Shaped, g: Shaped, count: int, *, feedback: bool) -> str:
    """The cost rule of a player with `count` parameters, inputs like `x` and outputs like `g`."""
    if kind(module, x.shape) == "dense" and len(x.shape) == 2:
        return "factored"
    return "kept" if feedback and x.shape[0] * count <= keep_limit(x, g) else "recomputed"


def parameter_count(params: Tree) -> int:
    """The number of parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _gradients(act: Act, params: Tree, shape: tuple[int, ...]) -> PerSample:
    name = kind(act.module, shape)
    return by_vjp(act, params) if name == GENERIC else functools.partial(KINDS[name][1], act)


def sample_gradients(
    act: Act, params: Tree, x: jax.Array, g: jax.Array, *, feedback: bool
) -> SampleGradients:
    """The per-sample gradients of one player, under the cheapest rule for its shape.

    Args:
        act: the player's move.
        params: the player's own parameters.
        x: its inputs [B, ...].
        g: the adjoints of its outputs [B, ...].
        feedback: whether more than one sum will be asked for.
    """
    count = parameter_count(params)
    match rule(act.module, x, g, count, feedback=feedback):
        case "factored":
            return Factored(x, g, act.module.use_bias)
        case "kept":
            return Kept(_gradients(act, params, x.shape)(x, g))
    chunk = chunk_size(count, keep_limit(x, g))
    return Recomputed(act, params, x, g, _gradients(act, params, x.shape), chunk)
