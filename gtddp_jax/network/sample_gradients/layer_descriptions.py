"""Descriptions of layers that have no Flax module, with the attribute names of Flax.

A model that is read from a trace has operations instead of modules. `sample_gradients.layer_rules`
and the Kronecker layouts accept these descriptions in the place of `nn.Dense` and `nn.Conv`.
"""

import dataclasses
from typing import TypeAlias

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """`h = x W + b`.

    Attributes:
        features: number of output features; the kernel may have any row-major shape.
        use_bias: whether the layer has a bias.
    """

    features: int
    use_bias: bool


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """A convolution of [B, spatial..., features] with explicit zero padding, as `nn.Conv`."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    kernel_dilation: tuple[int, ...]
    feature_group_count: int
    use_bias: bool = False


@dataclasses.dataclass(frozen=True)
class OtherLayer:
    """Any other layer; `label` names it in tables and messages."""

    label: str


PlayerLayer: TypeAlias = nn.Module | DenseLayer | ConvLayer | OtherLayer
"""What a player applies to its inputs."""
