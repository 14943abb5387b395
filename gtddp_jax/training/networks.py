"""The network zoo: residual networks described as GT-DDP stages."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

import gtddp_jax as gt
from gtddp_jax.training.tables import look_up


def flatten(x: jax.Array) -> jax.Array:
    """Joins height, width and channels: [batch, height, width, channels] to [batch, features]."""
    return x.reshape(x.shape[0], -1)


def residual_conv(classes: int, width: int = 16, stride: int = 1) -> gt.Network:
    """Builds the paper's network for small images: one residual block of three convolutions.

    Args:
        classes: Number of outputs.
        width: Channels of every convolution.
        stride: Stride of the first convolution.
    """

    def conv() -> nn.Conv:
        return nn.Conv(width, (3, 3))

    block = gt.Residual([conv(), nn.relu, conv(), nn.relu, conv()])
    first = nn.Conv(width, (3, 3), strides=stride)
    return gt.Network([first, nn.relu, block, nn.relu, flatten, nn.Dense(classes)])


NETWORKS: dict[str, Callable[[int], gt.Network]] = {
    "residual-conv": residual_conv,
    "residual-conv-stride": partial(residual_conv, stride=2),
}


def build(name: str, classes: int) -> gt.Network:
    """Builds the network called ``name`` with ``classes`` outputs.

    Raises:
        ValueError: If ``name`` is not in ``NETWORKS``.
    """
    return look_up(NETWORKS, name, "network")(classes)
