"""A network with everything it carries: parameters, running statistics, dropout's keys."""

from typing import Any

import jax

import gtddp_jax as gt
from gtddp_jax.training.state import Params


def keys(net: gt.Network, key: jax.Array) -> dict[str, jax.Array]:
    """The random keys that the network needs to train: the step's, for each of its collections."""
    return dict.fromkeys(net.rng_collections, key)


def train_outputs(
    net: gt.Network, params: Params, batch_stats: Any, inputs: jax.Array, key: jax.Array
) -> tuple[jax.Array, Any]:
    """Outputs [batch, ...] in training mode, and the running statistics after one update.

    Args:
        net: The network.
        params: Its parameters.
        batch_stats: Its running statistics; empty without batch normalisation.
        inputs: Shape [batch, ...].
        key: The step's random key.
    """
    made = net.apply(params, inputs, batch_stats=batch_stats, train=True, rngs=keys(net, key))
    return made if net.has_batch_stats else (made, batch_stats)


def implicit_apply(net: gt.Network, params: Params, inputs: Any) -> tuple[jax.Array, Any]:
    """`train_outputs` as `gt.implicit` calls it: inputs are (inputs, batch_stats, key)."""
    images, batch_stats, key = inputs
    return train_outputs(net, params, batch_stats, images, key)


def is_plain(net: gt.Network) -> bool:
    """Whether the network does the same in training and in evaluation."""
    return not (net.has_batch_stats or net.rng_collections)
