"""One layer as several players: `split` divides its output units among them.

The players are fictitious in the sense of game theory: the layer itself has no such parts, and the
network computes the same function. Each player has its slice of the last axis of every parameter.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from gtddp_jax.core.types import Tree
from gtddp_jax.network.blocks import Parallel
from gtddp_jax.network.errors import NetworkError

SPLIT_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvLocal, nn.ConvTranspose, nn.Embed)
"""Layers whose parameters all have the output units, `features` of them, as their last axis."""


def split(layer: nn.Module, players: int) -> Parallel:
    """A layer as several players of one stage, by its output units.

    The block computes what the layer computes, `[B, ..., features]`: each player reads the same
    inputs and writes its units, and the outputs are joined along the last axis. The first players
    have one unit more where the number of units cannot be divided evenly. `split_params` converts
    the parameters of the layer.

    What changes is the game. Curvature that couples the outputs of a layer (KFAC, EKFAC, SOAP) is
    then made for each player alone, unless they cooperate. Where P is diagonal (SGD, RMSprop,
    Adam) the step is that of the whole layer. New parameters follow the layer's own initializers,
    which see the shapes of the parts: those by the number of inputs (Flax's default) are as before.

    This is the idea of the fictitious players of Liu, Chen and Theodorou, "Dynamic Game Theoretic
    Neural Optimizer" (ICML 2021); their experiments are not repeated here.

    Args:
        layer: an `nn.Dense`, `nn.DenseGeneral`, `nn.Conv`, `nn.ConvLocal`, `nn.ConvTranspose` or
            `nn.Embed`. The players of a layer with a name are `name_0`, `name_1`, ...
        players: their number, from 2 to the number of units.

    Raises:
        NetworkError: the layer cannot be split by its output units, or has fewer of them.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> net = gt.Network([gt.split(nn.Dense(6), 4), nn.tanh, nn.Dense(2)])
        >>> params = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> [params[name]["kernel"].shape for name in net.stages[0].players]
        [(3, 2), (3, 2), (3, 1), (3, 1)]
    """
    features = _check_layer(layer)
    if not isinstance(players, int) or isinstance(players, bool) or not 2 <= players <= features:
        raise NetworkError(
            f"split(players={players!r}): the layer has {features} output units; give an int "
            f"from 2 to {features}."
        )
    parts = []
    for number, units in enumerate(_unit_counts(features, players)):
        name = None if layer.name is None else f"{layer.name}_{number}"
        parts.append(layer.clone(features=units, name=name))
    return Parallel(parts, merge="concatenate")


def split_params(layer_params: Tree, players: int) -> list[Tree]:
    """The parameters of a layer as those of its players, one tree for each player of `split`.

    Args:
        layer_params: the layer's own parameters, all with the output units as the last axis,
            [..., features].
        players: the number of players.

    Returns:
        Trees with the leaves [..., units], in the order of the players.

    Raises:
        NetworkError: the parameters have no common last axis of at least `players` units.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> layer, x = nn.Dense(6), jnp.ones((1, 3))
        >>> whole = layer.init(jax.random.key(0), x)["params"]
        >>> net = gt.Network([gt.split(layer, 4)])
        >>> params = dict(zip(net.players, gt.split_params(whole, 4)))
        >>> bool(jnp.allclose(net.apply(params, x), layer.apply({"params": whole}, x)))
        True
    """
    widths = {jnp.shape(leaf)[-1:] for leaf in jax.tree.leaves(layer_params)}
    features = max((width[0] for width in widths if width), default=0)
    if widths != {(features,)} or not isinstance(players, int) or not 1 <= players <= features:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(layer_params)]
        raise NetworkError(
            f"split_params(players={players!r}): got parameters of shapes {shapes}. Give the "
            "parameters of one layer, with the output units as their last axis, and an int from 1 "
            "to the number of units."
        )
    trees, start = [], 0
    for units in _unit_counts(features, players):
        end = start + units

        def units_of(leaf: Shaped[Array, "..."], start: int = start, end: int = end) -> Any:
            return leaf[..., start:end]

        trees.append(jax.tree.map(units_of, layer_params))
        start = end
    return trees


def join_params(player_params: Sequence[Tree]) -> Tree:
    """The parameters of the whole layer; the inverse of `split_params`.

    Args:
        player_params: a tree with the leaves [..., units] for each player, in their order.

    Returns:
        A tree with the leaves [..., features].

    Example:
        >>> import jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> parts = gt.split_params({"kernel": jnp.ones((3, 5))}, 2)
        >>> gt.join_params(parts)["kernel"].shape
        (3, 5)
    """
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *player_params)


def _unit_counts(features: int, players: int) -> list[int]:
    """As even as possible, the larger ones first."""
    units, rest = divmod(features, players)
    return [units + (number < rest) for number in range(players)]


def _check_layer(layer: Any) -> int:
    """The number of output units; raises unless they are the last axis of all parameters."""
    # A subclass may do anything with its parameters.
    if type(layer) not in SPLIT_LAYERS:
        supported = ", ".join(f"nn.{kind.__name__}" for kind in SPLIT_LAYERS)
        raise NetworkError(
            f"split: {type(layer).__name__} is not known to have its output units as the last axis "
            f"of all its parameters. Supported: {supported}. For other layers write "
            "gt.Parallel([...], merge='concatenate') with a layer for each player."
        )
    groups = getattr(layer, "feature_group_count", 1)
    if groups != 1:
        raise NetworkError(
            f"split: the units of a convolution with feature_group_count={groups} read different "
            "inputs, and each part would read all of them. Split an nn.Conv with one group."
        )
    if getattr(layer, "transpose_kernel", False):
        raise NetworkError(
            "split: nn.ConvTranspose(transpose_kernel=True) has its output units in another axis "
            "of the kernel. Use transpose_kernel=False."
        )
    if getattr(layer, "batch_dims", ()) or not isinstance(layer.features, int):
        raise NetworkError(
            f"split: nn.DenseGeneral(features={layer.features!r}, ...) has several axes of units. "
            "Give it an int as features, and no batch_dims."
        )
    return layer.features
