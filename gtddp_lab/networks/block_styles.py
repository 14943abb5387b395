"""Building blocks of residual networks: convolutions, normalisations, blocks in several styles."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax

import gtddp_jax as gt
from gtddp_lab.core.look_up import look_up

Layers: TypeAlias = list[Any]
"""Arguments of `gt.Network`: linen modules, functions and blocks."""


def flatten(x: jax.Array) -> jax.Array:
    """Flatten images [batch, height, width, channels] to features [batch, features]."""
    return x.reshape(x.shape[0], -1)


def pool(x: jax.Array) -> jax.Array:
    """Average images over positions: [batch, height, width, channels] to [batch, channels]."""
    return x.mean((1, 2))


NORM_LAYERS: dict[str, Callable[[Any], Layers]] = {
    "batch": lambda axis_name: [nn.BatchNorm(momentum=0.9, axis_name=axis_name)],
    "group": lambda axis_name: [nn.GroupNorm(num_groups=8)],
    "layer": lambda axis_name: [nn.LayerNorm()],
    "none": lambda axis_name: [],
}
"""Normalisations by name, as lists of layers beside a convolution."""

SHORTCUTS = ("identity", "conv")


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Options shared by all blocks of a network.

    Attributes:
        norm: Key in ``NORM_LAYERS``. Convolutions have a bias if it is "none".
        preactivation: Whether normalisation and ReLU precede each convolution (He et al. 2016,
            "Identity mappings in deep residual networks") instead of following it.
        shortcut: "identity", with a 1x1 convolution only where a block changes the shape; or
            "conv", with a 1x1 convolution on every shortcut: a second player beside the trunk
            (paper Eq. 13).
        at: Parametric stage of the body beside which the first player of such a shortcut acts, see
            ``gt.Residual``. Different placements are different games (paper Sec. 3.2).
        axis_name: Mapped device axis over which batch normalisation is synchronised.
    """

    norm: str = "batch"
    preactivation: bool = False
    shortcut: str = "identity"
    at: int = 0
    axis_name: Any = None

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: If ``norm`` or ``shortcut`` is unknown.
        """
        look_up(NORM_LAYERS, self.norm, "norm")
        if self.shortcut not in SHORTCUTS:
            raise ValueError(
                f"Invalid shortcut: {self.shortcut!r}. Supported: {', '.join(SHORTCUTS)}."
            )

    def convolution(self, width: int, size: int = 3, strides: int = 1) -> nn.Conv:
        """Return a square convolution with "SAME" padding."""
        return nn.Conv(width, (size, size), strides, use_bias=self.norm == "none")

    def norm_layers(self) -> Layers:
        """Return the normalisation as a list of at most one layer."""
        return NORM_LAYERS[self.norm](self.axis_name)

    def stem_layers(self, width: int, strides: int = 1) -> Layers:
        """Return the first layers of a network."""
        return [
            self.convolution(width, strides=strides),
            *([] if self.preactivation else self._activation_layers()),
        ]

    def block_layers(
        self, width: int, *, convolutions: int, strides: int = 1, inputs: int
    ) -> Layers:
        """Return a residual block.

        Args:
            width: Channels of its convolutions.
            convolutions: Number of convolutions of the body.
            strides: Strides of the first convolution.
            inputs: Channels of the block's input.
        """
        projected = self.shortcut == "conv" or strides > 1 or inputs != width
        body: Layers = []
        for index in range(convolutions):
            # The first convolution follows the activation of the layer before the block.
            if index > 0:
                body += self._activation_layers()
            body.append(self.convolution(width, strides=strides if index == 0 else 1))
        shortcut: Layers = [self.convolution(width, 1, strides)] if projected else []
        # An identity shortcut has no player, so there is nothing to place.
        at = self.at if projected else 0
        # Postactivation: normalise body and shortcut, add, then apply the ReLU.
        if not self.preactivation:
            shortcut += self.norm_layers() if projected else []
            return [gt.Residual([*body, *self.norm_layers()], shortcut, at), nn.relu]
        if projected:  # Body and shortcut both start from the activated input.
            return [*self._activation_layers(), gt.Residual(body, shortcut, at)]
        return [gt.Residual([*self._activation_layers(), *body])]

    def final_layers(self) -> Layers:
        """Return the layers that follow the last block."""
        return self._activation_layers() if self.preactivation else []

    def _activation_layers(self) -> Layers:
        return [*self.norm_layers(), nn.relu]
