"""Layers described without a Flax module, in Flax's words, for models that are read from a trace.

`gtddp_jax.players.rules.kind` and the Kronecker layouts take them like `nn.Dense` and `nn.Conv`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """`h = x W + b`: a kernel of `features` columns in any row-major shape, and maybe a bias."""

    features: int
    use_bias: bool


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """A convolution on [B, spatial..., features] with explicit zero padding."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    kernel_dilation: tuple[int, ...]
    feature_group_count: int
    use_bias: bool = False


@dataclasses.dataclass(frozen=True)
class OtherLayer:
    """A player that is neither; `label` says what it is."""

    label: str
