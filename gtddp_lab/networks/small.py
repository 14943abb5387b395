"""The paper's networks for small images (Sec. 5 and 6, Fig. 5 and 7, App. C)."""

from typing import Any

import flax.linen as nn

import gtddp_jax as gt
from gtddp_lab.core.look_up import look_up
from gtddp_lab.networks.block_styles import NORM_LAYERS, BlockStyle, Layers, flatten, pool


def residual_conv(
    classes: int, width: int = 16, stride: int = 1, norm: str = "none", **style: Any
) -> gt.Network:
    """Build the paper's network for DIGITS, MNIST and SVHN: one residual block.

    A skip connection over three convolutions, then a dense layer. The paper does not state width
    and normalisation.

    Args:
        classes: Number of outputs.
        width: Channels of every convolution.
        stride: Stride of the first convolution.
        norm: Normalisation, see ``BlockStyle``.
        **style: Further fields of ``BlockStyle``.
    """
    block_style = BlockStyle(norm, **style)
    block = block_style.block_layers(width, convolutions=3, inputs=width)
    stem = block_style.stem_layers(width, stride)
    return gt.Network([*stem, *block, *block_style.final_layers(), flatten, nn.Dense(classes)])


def four_blocks(classes: int, width: int = 16, norm: str = "batch", **style: Any) -> gt.Network:
    """Build the paper's network for CIFAR-10: four residual blocks of three convolutions.

    The second and the fourth block halve the image and double the channels. The paper does not
    state widths, strides and normalisation.

    Args:
        classes: Number of outputs.
        width: Channels of the first block.
        norm: Normalisation, see ``BlockStyle``.
        **style: Further fields of ``BlockStyle``.
    """
    block_style = BlockStyle(norm, **style)
    layers, inputs = block_style.stem_layers(width), width
    for channels, strides in ((width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2)):
        layers += block_style.block_layers(channels, convolutions=3, strides=strides, inputs=inputs)
        inputs = channels
    return gt.Network([*layers, *block_style.final_layers(), pool, nn.Dense(classes)])


def residual_mlp(classes: int, width: int = 64, blocks: int = 4, norm: str = "none") -> gt.Network:
    """Build a residual multilayer perceptron: blocks of two dense layers.

    Args:
        classes: Number of outputs.
        width: Features of every layer but the last.
        blocks: Number of blocks.
        norm: Normalisation at the beginning of every block, key in ``NORM_LAYERS``.
    """
    norm_layers = look_up(NORM_LAYERS, norm, "norm")
    layers: Layers = [flatten, nn.Dense(width)]
    for _ in range(blocks):
        body = [*norm_layers(None), nn.Dense(width), nn.relu, nn.Dense(width)]
        layers.append(gt.Residual(body))
    return gt.Network([*layers, nn.Dense(classes)])


def cooperative_network(classes: int, width: int = 8, features: int = 32) -> gt.Network:
    """Build the paper's network of cooperative blocks (Sec. 6, Fig. 7a).

    Three convolutional blocks and one dense block of two players each, whose outputs are added,
    then one dense layer; tanh between them. The paper does not state widths and strides.

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
