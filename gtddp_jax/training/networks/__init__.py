"""The network zoo: residual networks described as stages of the game, one table entry each."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gtddp_jax as gt
from gtddp_jax.training.networks.blocks import NORMS, Style, flatten, pool
from gtddp_jax.training.networks.resnet import preact_resnet18, resnet18
from gtddp_jax.training.networks.small import cooperative, four_blocks, residual_conv, residual_mlp
from gtddp_jax.training.tables import look_up

__all__ = [
    "NETWORKS",
    "NORMS",
    "Style",
    "build",
    "cooperative",
    "flatten",
    "four_blocks",
    "pool",
    "preact_resnet18",
    "residual_conv",
    "residual_mlp",
    "resnet18",
]

NETWORKS: dict[str, Callable[..., gt.Network]] = {
    "residual-conv": residual_conv,
    "residual-conv-stride": partial(residual_conv, stride=2),
    "four-blocks": four_blocks,
    "resnet18": resnet18,
    "preact-resnet18": preact_resnet18,
    "cooperative": cooperative,
    "residual-mlp": residual_mlp,
}
"""All networks by name: functions of the number of classes, with options of their own."""


def build(name: str, classes: int, **options: Any) -> gt.Network:
    """Builds the network called ``name`` with ``classes`` outputs.

    Args:
        name: Key in ``NETWORKS``.
        classes: Number of outputs.
        **options: Options of that network, see its function and ``Style``.

    Raises:
        ValueError: If ``name`` is not in ``NETWORKS``, or an option has an unknown value.

    Example:
        >>> build("four-blocks", 10, norm="group", preactivation=True)
        Network(27 stages, 29 players)
    """
    return look_up(NETWORKS, name, "network")(classes, **options)
