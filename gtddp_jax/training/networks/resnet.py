"""ResNet-18 for 32x32 images: He et al. 2016 with a 3x3 stem of stride 1 and no pooling in it."""

from typing import Any

import flax.linen as nn

import gtddp_jax as gt
from gtddp_jax.training.networks.blocks import Style, pool

GROUPS = ((1, 1), (2, 2), (4, 2), (8, 2))
"""Channels, in widths of the stem, and strides of the four groups of two blocks each."""


def resnet18(classes: int, width: int = 64, **style: Any) -> gt.Network:
    """Builds the network of the paper's CIFAR-100 runs: 8 blocks of two convolutions.

    With its defaults 11 173 962 parameters for 10 classes, 11 220 132 for 100.

    Args:
        classes: Number of outputs.
        width: Channels of the stem.
        **style: Fields of ``Style``.
    """
    made = Style(**style)
    layers, inputs = made.stem(width), width
    for factor, strides in GROUPS:
        for step in (strides, 1):
            layers += made.block(factor * width, convolutions=2, strides=step, inputs=inputs)
            inputs = factor * width
    return gt.Network([*layers, *made.end(), pool, nn.Dense(classes)])


def preact_resnet18(classes: int, width: int = 64, **style: Any) -> gt.Network:
    """Builds ``resnet18`` with normalisation and ReLU before each convolution.

    Args:
        classes: Number of outputs.
        width: Channels of the stem.
        **style: Further fields of ``Style``.
    """
    return resnet18(classes, width, preactivation=True, **style)
