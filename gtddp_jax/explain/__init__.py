"""Describes the game on a network as text: stages, players, parameter counts, cost rules."""

from typing import Any

from gtddp_jax.core.types import Batch, InputsLike, Tree
from gtddp_jax.curvature.base import Curvature
from gtddp_jax.explain.network_table import network_table
from gtddp_jax.explain.traced_table import traced_table
from gtddp_jax.network.network import Network
from gtddp_jax.network.protocol import StagedNetwork
from gtddp_jax.tracing.traced_network import TracedNetwork

__all__ = ["explain"]


def explain(
    net: StagedNetwork,
    params: Tree | None = None,
    x: Batch | InputsLike | None = None,
    curvature: Curvature | None = None,
) -> str:
    """The game on a network as a table: stages, players, parameter counts, cost rules.

    Nothing is computed; only the shapes of `params` and `x` matter.

    Args:
        net: a `gt.Network` or the result of `gt.from_flax`.
        params: the network's parameters. Required for a `gt.Network`; a model from `gt.from_flax`
            defaults to the shapes of those that it was traced with.
        x: a batch of inputs [B, ...], or its shapes as `jax.ShapeDtypeStruct`. The batch size
            decides the cost rules. Required for a `gt.Network`; a model from `gt.from_flax`
            defaults to its example.
        curvature: from `gtddp_jax.curvature`. Adds a column with what the curvature uses for each
            player; for Kronecker curvature the sizes of the factors, the cost of a refresh and the
            kind of cooperation.

    Returns:
        Text for `print`.

    Raises:
        ValueError: the arguments do not describe a network.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(4), nn.relu, nn.Dense(2)])
        >>> x = jnp.ones((8, 3))
        >>> print(gt.explain(net, net.init(jax.random.key(0), x), x).splitlines()[0])
        2 stages, 2 players, 26 parameters
    """
    inputs: Any = x
    if isinstance(net, TracedNetwork):
        return traced_table(net, params, inputs, curvature)
    if not isinstance(net, Network):
        raise ValueError(
            f"explain: the network must be a gt.Network or come from gt.from_flax, got {net!r}."
        )
    if params is None or x is None:
        raise ValueError(
            "explain: a gt.Network needs its parameters and an input batch; call "
            "gt.explain(net, params, x)."
        )
    return network_table(net, net.check_params(params), inputs, curvature)
