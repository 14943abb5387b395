"""A collection of residual networks as `gt.Network`s, one entry of `NETWORKS` each."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gtddp_jax as gt
from gtddp_lab.core.look_up import look_up
from gtddp_lab.networks.block_styles import NORM_LAYERS, BlockStyle, flatten, pool
from gtddp_lab.networks.char_gpt import char_gpt
from gtddp_lab.networks.resnet import preact_resnet18, resnet18
from gtddp_lab.networks.small import cooperative_network, four_blocks, residual_conv, residual_mlp

__all__ = [
    "NETWORKS",
    "NORM_LAYERS",
    "BlockStyle",
    "build_network",
    "char_gpt",
    "cooperative_network",
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
    "narrow-resnet18": partial(resnet18, width=8),
    "cooperative": cooperative_network,
    "residual-mlp": residual_mlp,
    "char-gpt": char_gpt,
}
"""Networks by name: functions of the number of classes and of options."""


def build_network(name: str, classes: int, **options: Any) -> gt.Network:
    """Build the network called ``name`` with ``classes`` outputs.

    Args:
        name: Key in ``NETWORKS``.
        classes: Number of outputs.
        **options: Options of that network, see its function and ``BlockStyle``.

    Raises:
        ValueError: If ``name`` is not in ``NETWORKS``, or an option has an unknown value.

    Example:
        >>> build_network("four-blocks", 10, norm="group", preactivation=True)
        Network(27 stages, 29 players)
    """
    return look_up(NETWORKS, name, "network")(classes, **options)
