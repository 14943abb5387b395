"""What residual networks are built from: convolutions, normalisations, blocks in several styles."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

import gtddp_jax as gt
from gtddp_jax.training.tables import look_up

Layers = list[Any]


def flatten(x: jax.Array) -> jax.Array:
    """Joins height, width and channels: [batch, height, width, channels] to [batch, features]."""
    return x.reshape(x.shape[0], -1)


def pool(x: jax.Array) -> jax.Array:
    """Averages over positions: [batch, height, width, channels] to [batch, channels]."""
    return x.mean((1, 2))


NORMS: dict[str, Callable[[Any], Layers]] = {
    "batch": lambda axis_name: [nn.BatchNorm(momentum=0.9, axis_name=axis_name)],
    "group": lambda axis_name: [nn.GroupNorm(num_groups=8)],
    "layer": lambda axis_name: [nn.LayerNorm()],
    "none": lambda axis_name: [],
}
"""Normalisations by name, as the layers that follow (or lead) a convolution."""

SHORTCUTS = ("identity", "conv")


@dataclasses.dataclass(frozen=True)
class Style:
    """How the blocks of a network are made.

    Attributes:
        norm: Key in ``NORMS``. Convolutions have a bias where it is "none".
        preactivation: Whether normalisation and ReLU come before each convolution (He et al. 2016,
            "Identity mappings in deep residual networks") instead of after it.
        shortcut: "identity", with a 1x1 convolution where a block changes the shape; or "conv", a
            1x1 convolution on every shortcut: a second player beside the trunk (paper Eq. 13).
        at: Beside which parametric stage of the body the first player of such a shortcut acts; see
            ``gt.Residual``. Different placements are different games (paper Sec. 3.2).
        axis_name: Mapped axis over devices over which batch normalisation is synchronised.
    """

    norm: str = "batch"
    preactivation: bool = False
    shortcut: str = "identity"
    at: int = 0
    axis_name: Any = None

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: If ``norm`` or ``shortcut`` is unknown.
        """
        look_up(NORMS, self.norm, "norm")
        if self.shortcut not in SHORTCUTS:
            raise ValueError(
                f"Invalid shortcut: {self.shortcut!r}. Supported: {', '.join(SHORTCUTS)}."
            )

    def conv(self, width: int, size: int = 3, strides: int = 1) -> nn.Conv:
        """A square convolution with "SAME" padding."""
        return nn.Conv(width, (size, size), strides, use_bias=self.norm == "none")

    def normalise(self) -> Layers:
        """The normalisation, no layer or one."""
        return NORMS[self.norm](self.axis_name)

    def stem(self, width: int, strides: int = 1) -> Layers:
        """The first layers of a network."""
        return [
            self.conv(width, strides=strides),
            *([] if self.preactivation else self._activate()),
        ]

    def block(self, width: int, *, convolutions: int, strides: int = 1, inputs: int) -> Layers:
        """A residual block.

        Args:
            width: Channels of its convolutions.
            convolutions: How many the body has.
            strides: Of its first convolution.
            inputs: Channels of its input.
        """
        mapped = self.shortcut == "conv" or strides > 1 or inputs != width
        body: Layers = []
        for i in range(convolutions):
            if i > 0:
                body += self._activate()
            body.append(self.conv(width, strides=strides if i == 0 else 1))
        shortcut: Layers = [self.conv(width, 1, strides)] if mapped else []
        at = self.at if mapped else 0
        if not self.preactivation:
            shortcut += self.normalise() if mapped else []
            return [gt.Residual([*body, *self.normalise()], shortcut, at), nn.relu]
        if mapped:  # body and shortcut both start from the activated input
            return [*self._activate(), gt.Residual(body, shortcut, at)]
        return [gt.Residual([*self._activate(), *body])]

    def end(self) -> Layers:
        """What follows the last block."""
        return self._activate() if self.preactivation else []

    def _activate(self) -> Layers:
        return [*self.normalise(), nn.relu]
