"""Describes the game on a network as text: stages, players, parameter counts, cost rules."""

from typing import Any

from gtddp_jax.core.types import Batch, InputsLike, Tree
from gtddp_jax.curvature.base import Curvature
from gtddp_jax.explain.losses_table import explain_losses
from gtddp_jax.explain.network_table import layer_table, network_table
from gtddp_jax.explain.traced_table import traced_table
from gtddp_jax.network.network import Network
from gtddp_jax.network.protocol import StagedNetwork
from gtddp_jax.tracing.traced_network import TracedNetwork

__all__ = ["explain", "explain_losses"]


def explain(
    net: StagedNetwork,
    params: Tree | None = None,
    x: Batch | InputsLike | None = None,
    curvature: Curvature | None = None,
) -> str:
    """The game on a network as a table: stages, players, parameter counts, cost rules.

    `net.explain(params, x, curvature)` is the same. Nothing is computed; only the shapes of
    `params` and `x` matter, and both may be left out. A `gt.Network` has no shapes before its first
    `init`; until then the table without `x` shows stages, players and layers only, and how many
    parameters there are if `params` are given.

    Args:
        net: a `gt.Network` or the result of `gt.from_flax`.
        params: the network's parameters; by default their shapes.
        x: a batch of inputs [B, ...], or its shapes as `jax.ShapeDtypeStruct`. The batch size
            decides the cost rules. By default the shapes that the network has seen last in `init`,
            or those of the example that a model from `gt.from_flax` was traced with.
        curvature: from `gtddp_jax.curvature`. Adds a column with what the curvature uses for each
            player; for Kronecker curvature the sizes of the factors, the cost of a refresh and the
            kind of cooperation.

    Returns:
        Text for `print`.

    Raises:
        ValueError: `net` is no network, or a curvature is given without shapes.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(4), nn.relu, nn.Dense(2)])
        >>> x = jnp.ones((8, 3))
        >>> print(gt.explain(net, net.init(jax.random.key(0), x), x).splitlines()[0])
        2 stages, 2 players, 26 parameters
        >>> net.explain() == gt.explain(net, net.init(jax.random.key(0), x), x)
        True
    """
    inputs: Any = x
    if isinstance(net, TracedNetwork):
        return traced_table(net, params, inputs, curvature)
    if not isinstance(net, Network):
        raise ValueError(
            f"explain: the network must be a gt.Network or come from gt.from_flax, got {net!r}."
        )
    inputs = net.example_inputs if x is None else inputs
    if inputs is not None:
        params = net.param_shapes(inputs) if params is None else net.check_params(params)
        return network_table(net, params, inputs, curvature)
    if curvature is not None:
        raise ValueError(
            "explain: a curvature needs the shapes of the parameters, which a gt.Network does not "
            "have before its first init; call gt.explain(net, params, x, curvature)."
        )
    return layer_table(net, None if params is None else net.check_params(params))


# A network cannot import what describes it, since that knows curvatures, which know networks.
StagedNetwork.explainer = explain
