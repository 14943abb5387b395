"""Convolutions."""

import jax
from typing_extensions import override

from gtddp_jax.network.sample_gradients import conv
from gtddp_jax.network.sample_gradients.layer_descriptions import ConvLayer
from gtddp_jax.tracing.conv_description import describe_convolution
from gtddp_jax.tracing.ops.base import BoundUse, Operands, SplitUse, UseGradients
from gtddp_jax.tracing.sample_axes import SampleAxis


class ConvUse(UseGradients):
    """A kernel of a convolution on [B, spatial..., features].

    Args:
        use: the use.
        layer: the convolution.
    """

    kind = "conv"

    def __init__(self, use: BoundUse, layer: ConvLayer) -> None:
        super().__init__(use)
        self._layer = layer

    def _kernel_gradients(self, x: jax.Array, g: jax.Array) -> jax.Array:
        return conv.conv_sample_gradients(self._layer, x, g)["kernel"]

    @override
    def split_by_sample(self) -> SplitUse:
        # The layer's function takes batches, so one sample is a batch of one.
        def gradient(sample: tuple[jax.Array, jax.Array]) -> Operands:
            x, g = sample
            return (self._kernel_gradients(x[None], g[None])[0],)

        return (self.use.inputs[0], self.use.adjoints[0]), gradient

    @override
    def sample_gradients(self) -> Operands:
        # All samples at once: the layer's own function chooses the size of its chunks.
        return (self._kernel_gradients(self.use.inputs[0], self.use.adjoints[0]),)


def match_convolution(use: BoundUse) -> UseGradients | None:
    """Recognises the kernel of a convolution with features last and an undilated input."""
    is_convolution = use.equation.name == "conv_general_dilated"
    if not is_convolution or not use.is_unary or use.operand_positions != (1,):
        return None
    inputs, kernel = use.inputs
    layer = describe_convolution(use.equation, inputs.ndim, kernel.shape)
    # The layer's function expects the samples first, one row each.
    if layer is None or not use.input_axes[0] == SampleAxis(0, 1) == use.output_axes[0]:
        return None
    return ConvUse(use, layer)
