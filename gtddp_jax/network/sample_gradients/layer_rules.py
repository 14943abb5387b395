"""Cost rules: what each player stores to compute its sums over samples, chosen by shape.

| rule         | when                                           | stored                           |
|--------------|------------------------------------------------|----------------------------------|
| `factored`   | dense layer, one position per sample           | nothing beyond inputs, adjoints  |
| `kept`       | feedback on, B x parameters <= `keep_limit`    | B numbers per parameter          |
| `recomputed` | otherwise, and always with feedback off        | one chunk during quadratic forms |

To support another kind of layer, write a file with its per-sample gradients and add one entry to
`LAYER_RULES`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gtddp_jax.core.types import InputsLike, Tree
from gtddp_jax.network.errors import refuse_complex_numbers
from gtddp_jax.network.sample_gradients import conv, dense
from gtddp_jax.network.sample_gradients.base import SampleGradients, StoredGradients
from gtddp_jax.network.sample_gradients.dense import OuterProductGradients, is_dense
from gtddp_jax.network.sample_gradients.layer_descriptions import PlayerLayer
from gtddp_jax.network.sample_gradients.recomputed import (
    ApplyFn,
    RecomputedGradients,
    SampleGradientFn,
    chunk_size,
    gradients_by_vjp,
)

ALWAYS_KEPT = 2**20
"""Numbers (B x parameters) up to which per-sample gradients are stored in any case."""


class LayerRule(NamedTuple):
    """A kind of layer.

    Attributes:
        matches: whether a layer with inputs of a shape [B, ...] is of this kind.
        sample_gradients: from the layer, its inputs and its output adjoints to G_i.
    """

    matches: Callable[[PlayerLayer, tuple[int, ...]], bool]
    sample_gradients: Callable[[Any, jax.Array, jax.Array], Tree]


LAYER_RULES: dict[str, LayerRule] = {
    "dense": LayerRule(lambda layer, shape: is_dense(layer), dense.dense_sample_gradients),
    "conv": LayerRule(conv.is_conv, conv.conv_sample_gradients),
}
GENERIC = "generic"
"""The kind of all other layers."""


def layer_kind(layer: PlayerLayer, shape: tuple[int, ...]) -> str:
    """The kind of a layer with inputs of `shape` [B, ...]: a key of `LAYER_RULES`, or `GENERIC`."""
    for kind, rule in LAYER_RULES.items():
        if rule.matches(layer, shape):
            return kind
    return GENERIC


def keep_limit(x: InputsLike, g: InputsLike) -> int:
    """How many numbers stored gradients may take: as many as the layer's inputs and outputs."""
    # The step holds inputs and outputs anyway, so storing as much about doubles its memory.
    return max(ALWAYS_KEPT, math.prod(x.shape) + math.prod(g.shape))


def cost_rule(
    layer: PlayerLayer, x: InputsLike, g: InputsLike, count: int, *, feedback: bool
) -> str:
    """The cost rule of a player.

    Args:
        layer: its layer.
        x: its inputs, or their shape.
        g: its outputs or their adjoints, or their shape.
        count: the number of its parameters.
        feedback: whether more than one sum over samples is needed.
    """
    # With several positions, G_i is a sum of outer products and not one of them.
    if layer_kind(layer, x.shape) == "dense" and len(x.shape) == 2:
        return "factored"
    return "kept" if feedback and x.shape[0] * count <= keep_limit(x, g) else "recomputed"


def parameter_count(params: Tree) -> int:
    """The number of parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def compute_sample_gradients(
    layer: PlayerLayer,
    apply: ApplyFn,
    params: Tree,
    x: jax.Array,
    g: jax.Array,
    *,
    feedback: bool,
) -> SampleGradients:
    """The per-sample gradients of one player, under the cheapest rule for its shape.

    Args:
        layer: the player's layer.
        apply: the layer as a function of the parameters and the inputs.
        params: the player's parameters.
        x: its inputs [B, ...].
        g: the adjoints of its outputs [B, ...].
        feedback: whether more than one sum over samples is needed.

    Raises:
        NetworkError: the inputs or the outputs are complex.
    """
    refuse_complex_numbers(f"the layer {type(layer).__name__}", x, g)
    count = parameter_count(params)
    rule = cost_rule(layer, x, g, count, feedback=feedback)
    if rule == "factored":
        assert is_dense(layer)  # for type checkers; the rule implies it
        return OuterProductGradients(x, g, use_bias=layer.use_bias)
    # The function that computes G_i; called at once if they are stored, else when needed.
    sample_gradients = _sample_gradient_fn(layer, apply, params, x.shape)
    if rule == "kept":
        return StoredGradients(sample_gradients(x, g))
    # A chunk may take as much memory as stored gradients could.
    chunk = chunk_size(count, keep_limit(x, g))
    return RecomputedGradients(apply, params, x, g, sample_gradients, chunk)


def _sample_gradient_fn(
    layer: PlayerLayer, apply: ApplyFn, params: Tree, shape: tuple[int, ...]
) -> SampleGradientFn:
    kind = layer_kind(layer, shape)
    # Any other module is differentiated once per sample.
    if kind == GENERIC:
        return gradients_by_vjp(apply, params)
    return functools.partial(LAYER_RULES[kind].sample_gradients, layer)
