"""Calls a network in training mode, with batch statistics and dropout keys."""

from typing import Any

import jax

import gtddp_jax as gt
from gtddp_lab.training.state import BatchStats, Params

StatefulInputs = tuple[jax.Array, BatchStats, jax.Array]
"""Inputs [batch, ...] of a network, its batch statistics, and the random key of the step."""


def collection_keys(net: gt.Network, key: jax.Array) -> dict[str, jax.Array]:
    """The step's random key, for each of the network's random collections (dropout)."""
    return dict.fromkeys(net.rng_collections, key)


def train_outputs(
    net: gt.Network,
    params: Params,
    batch_stats: BatchStats,
    inputs: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, BatchStats]:
    """Returns the outputs [batch, ...] in training mode and the updated batch statistics.

    Args:
        net: The network.
        params: Its parameters.
        batch_stats: Its batch statistics; empty without batch normalization.
        inputs: Shape [batch, ...].
        key: The random key of the step.
    """
    result: Any = net.apply(
        params, inputs, batch_stats=batch_stats, train=True, rngs=collection_keys(net, key)
    )
    return result if net.has_batch_stats else (result, batch_stats)


def apply_with_state(
    net: gt.Network, params: Params, inputs: StatefulInputs
) -> tuple[jax.Array, BatchStats]:
    """`train_outputs` in the form that `gt.implicit` calls: one argument besides ``params``."""
    images, batch_stats, key = inputs
    return train_outputs(net, params, batch_stats, images, key)


def is_stateless(net: gt.Network) -> bool:
    """Whether the network computes the same in training and in evaluation mode."""
    return not (net.has_batch_stats or net.rng_collections)
