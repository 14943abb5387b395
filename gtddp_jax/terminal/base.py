"""The terminal contract: a model of each sample's loss along its own gradient (DESIGN §4).

| symbol  | meaning                                                         | shape    |
|---------|-----------------------------------------------------------------|----------|
| phi_i   | loss of sample i                                                | [B]      |
| g_i     | its gradient by the outputs                                     | [B, ...] |
| psi_i   | psi_i(s) = phi_i(x + s g_i / |g_i|^2), s in units of loss change | [B]      |
| h_i     | curvature of the model at s = 0                                 | [B]      |

`slope` is psi'; psi'(0) = 1. A sample without a gradient has slope 1 and curvature 0.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from gtddp_jax.core import arguments
from gtddp_jax.core.trees import inner, per_sample, wide
from gtddp_jax.core.types import Outputs, PerSample

PerSampleLoss: TypeAlias = Callable[[Outputs], PerSample]


@dataclasses.dataclass(frozen=True)
class Line:
    """The losses of a batch along their own gradients.

    Attributes:
        loss: outputs -> [B].
        outputs: the network's outputs x_T, an array [B, ...] or a tree of such arrays.
        value: phi_i [B].
        gradient: g_i, like the outputs, dtypes included.
        direction: g_i / |g_i|^2 in at least float32, zero where |g_i| vanishes.
        norm: |g_i| [B], over all outputs of a sample.
    """

    loss: PerSampleLoss
    outputs: Outputs
    value: PerSample
    gradient: Outputs
    direction: Outputs
    norm: PerSample

    @property
    def alive(self) -> Bool[Array, " B"]:
        """Which samples have a gradient, [B]."""
        return self.norm > 0

    def along(self, s: PerSample) -> tuple[PerSample, PerSample]:
        """psi(s) and psi'(s), each [B]; the slope is 1 where there is no gradient."""
        x = jax.tree.map(lambda x, d: wide(x) + per_sample(s, d) * d, self.outputs, self.direction)
        value, slope = jax.jvp(self.loss, (x,), (self.direction,))
        return value, jnp.where(self.alive, slope, 1.0)

    def bend(self) -> PerSample:
        """psi''(0) = g^T H g / |g|^4 [B]; 0 where there is no gradient."""
        return self.slope_and_bend(jnp.zeros_like(self.norm))[1]

    def slope_and_bend(self, s: PerSample) -> tuple[PerSample, PerSample]:
        """psi'(s) and psi''(s), each [B]; 1 and 0 where there is no gradient."""
        slope, bend = jax.jvp(lambda s: self.along(s)[1], (s,), (jnp.ones_like(s),))
        return slope, jnp.where(self.alive, bend, 0.0)


def line_of(loss: PerSampleLoss, outputs: Outputs) -> Line:
    """The losses and gradients at `outputs`, an array [B, ...] or a tree of such arrays.

    Raises:
        ValueError: `loss` does not return one real number a sample, or there is no sample.
    """
    value, pullback = jax.vjp(loss, outputs)
    shapes = [x.shape for x in jax.tree.leaves(outputs)]
    if value.ndim != 1 or any(shape[:1] != value.shape for shape in shapes):
        raise ValueError(
            f"loss(outputs, targets) returned shape {value.shape} for outputs of shape "
            f"{', '.join(map(str, shapes))}; one loss a sample, shape {shapes[0][:1]}, is needed "
            "(no mean over the batch)."
        )
    arguments.refuse_empty("loss(outputs, targets)", value.shape[0])
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss(outputs, targets) returned {value.dtype}; real floating-point numbers are "
            "needed, which can be differentiated."
        )
    (gradient,) = pullback(jnp.ones_like(value))
    square = inner(gradient, gradient)
    alive = square > jnp.finfo(square.dtype).tiny * 1e6
    square = jnp.where(alive, square, 1.0)
    inverse = jnp.where(alive, 1 / square, 0.0)
    direction = jax.tree.map(lambda g: per_sample(inverse, g) * wide(g), gradient)
    norm = jnp.where(alive, jnp.sqrt(square), 0.0)
    return Line(loss, outputs, wide(value), gradient, direction, norm)


class Expansion(abc.ABC):
    """A terminal model at the outputs of one batch.

    Attributes:
        line: the losses along their gradients.
        curvature: h_i [B], >= 0.
        bounds: smallest and largest slope, or None.
    """

    line: Line
    curvature: PerSample
    bounds: tuple[float, float] | None = None

    @abc.abstractmethod
    def slope(self, s: PerSample) -> PerSample:
        """psi'(s) of the model, [B]; 1 at s = 0."""

    @abc.abstractmethod
    def slope_and_bend(self, s: PerSample) -> tuple[PerSample, PerSample]:
        """psi'(s) and psi''(s) of the model, each [B]."""

    @abc.abstractmethod
    def change(self, s: PerSample) -> PerSample:
        """psi(s) - psi(0) of the model, [B]."""


class Terminal(abc.ABC):
    """A terminal model: immutable, holds its options, expands the losses of a batch."""

    @abc.abstractmethod
    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> Expansion:
        """The model at `outputs`, an array [B, ...] or a tree of such; `loss` maps them to [B]."""


@dataclasses.dataclass(frozen=True)
class Tangent(Expansion):
    """The straight slope 1 + h s of a quadratic model."""

    line: Line
    curvature: PerSample

    def slope(self, s: PerSample) -> PerSample:
        """See `Expansion`."""
        return 1 + self.curvature * s

    def slope_and_bend(self, s: PerSample) -> tuple[PerSample, PerSample]:
        """See `Expansion`."""
        return self.slope(s), self.curvature

    def change(self, s: PerSample) -> PerSample:
        """See `Expansion`."""
        return s + 0.5 * self.curvature * jnp.square(s)
