"""The paper's networks for small images (Sec. 5 and 6, Fig. 5 and 7, App. C)."""

from typing import Any

import flax.linen as nn

import gtddp_jax as gt
from gtddp_jax.training.networks.blocks import NORMS, Layers, Style, flatten, pool
from gtddp_jax.training.tables import look_up


def residual_conv(
    classes: int, width: int = 16, stride: int = 1, norm: str = "none", **style: Any
) -> gt.Network:
    """Builds the paper's network for DIGITS, MNIST and SVHN: one residual block.

    A skip connection over three convolutions, then a dense layer. The paper says nothing about
    width and normalisation.

    Args:
        classes: Number of outputs.
        width: Channels of every convolution.
        stride: Stride of the first convolution.
        norm: Normalisation, see ``Style``.
        **style: Further fields of ``Style``.
    """
    made = Style(norm, **style)
    block = made.block(width, convolutions=3, inputs=width)
    return gt.Network([*made.stem(width, stride), *block, *made.end(), flatten, nn.Dense(classes)])


def four_blocks(classes: int, width: int = 16, norm: str = "batch", **style: Any) -> gt.Network:
    """Builds the paper's network for CIFAR-10: four residual blocks of three convolutions.

    The second and the fourth block halve the image and double the channels. The paper says nothing
    about widths, strides and normalisation.

    Args:
        classes: Number of outputs.
        width: Channels of the first block.
        norm: Normalisation, see ``Style``.
        **style: Further fields of ``Style``.
    """
    made = Style(norm, **style)
    layers, inputs = made.stem(width), width
    for channels, strides in ((width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2)):
        layers += made.block(channels, convolutions=3, strides=strides, inputs=inputs)
        inputs = channels
    return gt.Network([*layers, *made.end(), pool, nn.Dense(classes)])


def residual_mlp(classes: int, width: int = 64, blocks: int = 4, norm: str = "none") -> gt.Network:
    """Builds a residual multilayer perceptron: dense blocks of two layers.

    Args:
        classes: Number of outputs.
        width: Features of every layer but the last.
        blocks: Number of blocks.
        norm: Normalisation at the head of every block, key in ``blocks.NORMS``.
    """
    normalised = look_up(NORMS, norm, "norm")
    layers: Layers = [flatten, nn.Dense(width)]
    for _ in range(blocks):
        body = [*normalised(None), nn.Dense(width), nn.relu, nn.Dense(width)]
        layers.append(gt.Residual(body))
    return gt.Network([*layers, nn.Dense(classes)])


def cooperative(classes: int, width: int = 8, features: int = 32) -> gt.Network:
    """Builds the paper's network of cooperative blocks (Sec. 6, Fig. 7a).

    Three convolutional and one dense block of two players each, whose outputs are added, then one
    dense layer; tanh between them. Widths and strides are not the paper's, which does not say.

    Args:
        classes: Number of outputs.
        width: Channels of the convolutions; the second and the third halve the image.
        features: Outputs of the dense players.
    """
    layers: Layers = []
    for strides in (1, 2, 2):
        players = [nn.Conv(width, (3, 3), strides) for _ in range(2)]
        layers += [gt.Cooperative(players), nn.tanh]
    layers += [flatten, gt.Cooperative([nn.Dense(features), nn.Dense(features)]), nn.tanh]
    return gt.Network([*layers, nn.Dense(classes)])
