"""Convolutions."""

from typing import Any

import jax

from gtddp_jax.flax_models.axes import Axis
from gtddp_jax.flax_models.kinds.base import Operands, Parts, Site, UseSums
from gtddp_jax.flax_models.layers import conv_layer
from gtddp_jax.network.program import Act
from gtddp_jax.players import conv
from gtddp_jax.players.layers import ConvLayer


class Conv(UseSums):
    """A convolution on [B, spatial..., features]."""

    kind = "conv"

    def __init__(self, site: Site, layer: ConvLayer) -> None:
        super().__init__(site)
        self.act: Act = Act("", layer, 0, 1)

    def _data(self) -> tuple[jax.Array, jax.Array]:
        return self.site.inputs[0], self.site.adjoints[0]

    def parts(self) -> Parts:
        """See `UseSums`."""

        def gradient(part: Any) -> Operands:
            x, g = part
            found = conv.per_sample_gradients(self.act, x[None], g[None])
            return (found["kernel"][0],)

        return self._data(), gradient

    def per_sample(self) -> Operands:
        """See `UseSums`."""
        found = conv.per_sample_gradients(self.act, *self._data())
        return (found["kernel"],)


def convolution(site: Site) -> UseSums | None:
    """A convolution with features last and no dilation of its input."""
    if site.equation.name != "conv_general_dilated" or not site.simple or site.operands != (1,):
        return None
    layer = conv_layer(site.equation, site.inputs[0].ndim, site.inputs[1].shape)
    if layer is None or not site.axes[0] == Axis(0, 1) == site.out_axes[0]:
        return None
    return Conv(site, layer)
