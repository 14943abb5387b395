"""Losses that couple samples: the loss of one sample depends on the outputs of another.

In-batch negatives, contrastive losses and a mean that is broadcast over the batch are such. The
gradient by the outputs of sample i then belongs to the losses of several samples, so psi_i is not
the loss along its own gradient, and no weight that follows from it has a meaning. Such a loss is
played with weights of 1, which is the base method.

The samples are divided into two halves. The losses of one half are pulled back alone: if samples
are separate, the outputs of the other half get a gradient of exactly zero, without any rounding.
The derivative psi'(0) would not tell as much: it is also 1 for a mean that is broadcast.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool
from typing_extensions import override

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.trees import per_sample_dot
from gtddp_jax.core.types import Flag, Outputs, PerSample, Scalar
from gtddp_jax.terminal.base import (
    LossAlongGradient,
    PerSampleLoss,
    TerminalExpansion,
    TerminalModel,
)
from gtddp_jax.terminal.first_order import FirstOrderExpansion

COUPLING_TOLERANCE = 1e-3
"""The share of the gradients, by norm, that may reach other samples. Separate samples may exchange
rounding errors, for example where a common maximum is subtracted and added again."""

COUPLING_ROUNDING = 8.0
"""The same in units of the rounding error of the outputs, which in bfloat16 is larger."""


@dataclasses.dataclass(frozen=True)
class SeparateExpansion(TerminalExpansion):
    """Another expansion while samples are separate, and the first-order one while they are not.

    Attributes:
        exact_loss: the losses that are modelled, along their gradients.
        curvature: h_i [B], >= 0.
        inner: the other expansion.
        samples_coupled: whether samples are coupled at these outputs.
        bounds: those of the other expansion.
    """

    exact_loss: LossAlongGradient
    curvature: PerSample
    inner: TerminalExpansion
    samples_coupled: Flag | bool
    bounds: tuple[float, float] | None

    @override
    def derivative(self, shift: PerSample) -> PerSample:
        return jnp.where(self.samples_coupled, 1.0, self.inner.derivative(shift))

    @override
    def first_two_derivatives(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        derivative, second_derivative = self.inner.first_two_derivatives(shift)
        return (
            jnp.where(self.samples_coupled, 1.0, derivative),
            jnp.where(self.samples_coupled, 0.0, second_derivative),
        )

    @override
    def loss_change(self, shift: PerSample) -> PerSample:
        return jnp.where(self.samples_coupled, shift, self.inner.loss_change(shift))

    @override
    def with_gradient_share(self, share: Scalar) -> "SeparateExpansion":
        return separate_expansion(self.inner.with_gradient_share(share), self.samples_coupled)


def separate_expansion(inner: TerminalExpansion, coupled: Flag | bool) -> SeparateExpansion:
    """The expansion `inner`, without effect where `coupled` holds."""
    curvature = jnp.where(coupled, 0.0, inner.curvature)
    return SeparateExpansion(inner.exact_loss, curvature, inner, coupled, bounds=inner.bounds)


def expand_terminal(
    terminal: TerminalModel,
    loss: PerSampleLoss,
    outputs: Outputs,
    samples: SampleReductions,
    *,
    are_separate: Callable[[], bool] = lambda: False,
) -> TerminalExpansion:
    """Expands a terminal model, guarded against losses that couple samples.

    Args:
        terminal: the model.
        loss: maps outputs to losses [B].
        outputs: an array [B, ...] or a tree of such arrays.
        samples: the sample axis.
        are_separate: tells whether samples are known to be separate; asked only if it matters.
    """
    expansion = terminal.expand(loss, outputs)
    is_single = samples.local == 1 and samples.axis_name is None
    # Weights of 1 are right for any loss, and a single sample has no other.
    if (
        isinstance(expansion, FirstOrderExpansion)
        or expansion.is_linear
        or is_single
        or are_separate()
    ):
        return expansion
    return separate_expansion(expansion, samples_are_coupled(expansion.exact_loss, samples))


def samples_are_coupled(exact_loss: LossAlongGradient, samples: SampleReductions) -> Flag:
    """Whether the losses of some samples depend on the outputs of others; the same on all devices.

    Args:
        exact_loss: the losses at the outputs.
        samples: the sample axis.
    """
    half = _half_of_samples(exact_loss.value, samples)

    def leaked_square(sources: Bool[Array, " B"]) -> PerSample:
        """|gradient|^2 [B] that the losses of `sources` send to the outputs of other samples."""
        cotangent = jnp.where(sources, jnp.ones_like(exact_loss.value), 0.0)
        square = _squared_norm(exact_loss.pull_back(cotangent))
        return jnp.where(sources, 0.0, square)

    leaked = samples.mean(leaked_square(half) + leaked_square(~half))
    total = samples.mean(_squared_norm(exact_loss.gradient))
    epsilon = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(exact_loss.gradient))
    return leaked > max(COUPLING_TOLERANCE, COUPLING_ROUNDING * epsilon) ** 2 * total


def _squared_norm(gradient: Outputs) -> PerSample:
    return per_sample_dot(gradient, jax.tree.map(jnp.conj, gradient))


def _half_of_samples(value: PerSample, samples: SampleReductions) -> Bool[Array, " B"]:
    """A half that neighbours, and partners at a distance of a power of two, do not share."""
    number = jnp.arange(len(value), dtype=jnp.uint32)
    if samples.axis_name is not None:
        device = jax.lax.axis_index(samples.axis_name).astype(jnp.uint32)
        number = number + device * jnp.uint32(len(value))
    return jax.lax.population_count(number) % 2 == 1
