"""ResNet-18 for 32x32 images: He et al. 2016 with a 3x3 stem of stride 1 and no max pooling."""

from typing import Any

import flax.linen as nn

import gtddp_jax as gt
from gtddp_lab.networks.block_styles import BlockStyle, pool

RESNET_GROUPS = ((1, 1), (2, 2), (4, 2), (8, 2))
"""Channels (as multiples of the stem's) and strides of the four groups of two blocks each."""


def resnet18(classes: int, width: int = 64, **style: Any) -> gt.Network:
    """Build the network of the paper's CIFAR-100 runs: 8 blocks of two convolutions.

    By default it has 11 173 962 parameters for 10 classes and 11 220 132 for 100.

    Args:
        classes: Number of outputs.
        width: Channels of the stem.
        **style: Fields of ``BlockStyle``.
    """
    block_style = BlockStyle(**style)
    layers, inputs = block_style.stem_layers(width), width
    for factor, strides in RESNET_GROUPS:
        # Only the first block of a group reduces the resolution.
        for block_strides in (strides, 1):
            layers += block_style.block_layers(
                factor * width, convolutions=2, strides=block_strides, inputs=inputs
            )
            inputs = factor * width
    return gt.Network([*layers, *block_style.final_layers(), pool, nn.Dense(classes)])


def preact_resnet18(classes: int, width: int = 64, **style: Any) -> gt.Network:
    """Build ``resnet18`` with normalisation and ReLU before each convolution.

    Args:
        classes: Number of outputs.
        width: Channels of the stem.
        **style: Further fields of ``BlockStyle``.
    """
    return resnet18(classes, width, preactivation=True, **style)
