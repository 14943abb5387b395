"""The terminal contract: a model of each sample's loss along its own gradient.

| symbol  | meaning                                                         | shape    |
|---------|-----------------------------------------------------------------|----------|
| phi_i   | loss of sample i                                                | [B]      |
| g_i     | gradient of phi_i with respect to the network's outputs         | [B, ...] |
| psi_i   | psi_i(s) = phi_i(x + s conj(g_i) / |g_i|^2)                     | [B]      |
| h_i     | curvature of the model at s = 0                                 | [B]      |

The shift s is measured in units of loss change, so psi'(0) = 1. A sample whose gradient vanishes
has psi' = 1 and h = 0: it takes part in the step with weight 1 and without feedback. The conjugate
matters for complex outputs only: JAX's gradient is such that x changes phi by Re(g dx). See
docs/mathematics.md, "4. Terminal models".
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool
from typing_extensions import override

from gtddp_jax.core import validation
from gtddp_jax.core.outputs import check_per_sample_outputs
from gtddp_jax.core.reverse_rules import custom_vjp_names
from gtddp_jax.core.trees import expand_per_sample, per_sample_dot, upcast
from gtddp_jax.core.types import Flag, Outputs, PerSample, Scalar

# Users annotate the argument of a loss more narrowly than `Outputs`, see `core/types.py`.
if TYPE_CHECKING:
    PerSampleLoss: TypeAlias = Callable[[Any], PerSample]
else:
    PerSampleLoss = Callable[[Outputs], PerSample]

NO_SECOND_DERIVATIVE = (
    "loss(outputs, targets) cannot be differentiated twice, but sample weights follow from its "
    "second derivative: {culprit} a derivative that has none itself ({error}). Compute the "
    "backward rule with differentiable JAX operations, or use a loss such as "
    "optax.softmax_cross_entropy_with_integer_labels. The base optimizer alone needs first "
    "derivatives only: implicit(..., strength=0.0), gtddp(..., equilibrium='open_loop')."
)


@dataclasses.dataclass(frozen=True)
class LossAlongGradient:
    """The exact loss of each sample, restricted to the line along its own gradient.

    Attributes:
        loss: maps outputs to losses [B].
        outputs: the network's outputs x_T, an array [B, ...] or a tree of such arrays.
        value: phi_i [B].
        pull_back: maps c [B] to the gradient of `sum_i c_i phi_i` by the outputs.
        gradient: g_i, with the structure and the dtypes of the outputs.
        direction: conj(g_i) / |g_i|^2 in at least float32; zero where g_i vanishes.
        gradient_norm: |g_i| [B], over all outputs of a sample.
        reverse_mode_only: whether the loss has a `jax.custom_vjp`, which has no forward mode.
    """

    loss: PerSampleLoss
    outputs: Outputs
    value: PerSample
    pull_back: Callable[[PerSample], Outputs]
    gradient: Outputs
    direction: Outputs
    gradient_norm: PerSample
    reverse_mode_only: bool

    @property
    def has_gradient(self) -> Bool[Array, " B"]:
        """Which samples have a gradient, [B]."""
        return self.gradient_norm > 0

    def value_and_derivative(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        """psi(shift) and psi'(shift), each [B]; psi' is 1 where the gradient vanishes."""

        def shift_leaf(leaf: jax.Array, direction: jax.Array) -> jax.Array:
            # In the precision of the output, which may be lower than that of the loss.
            amount = shift.astype(jnp.finfo(direction.dtype).dtype)
            return upcast(leaf) + expand_per_sample(amount, direction) * direction

        shifted_outputs = jax.tree.map(shift_leaf, self.outputs, self.direction)
        if self.reverse_mode_only:
            value, pullback = jax.vjp(self.loss, shifted_outputs)
            (gradient,) = pullback(jnp.ones_like(value))
            derivative = per_sample_dot(gradient, self.direction)
        else:
            # One forward-mode pass gives psi and psi', because d/ds of the shifted outputs is the
            # direction itself.
            value, derivative = jax.jvp(self.loss, (shifted_outputs,), (self.direction,))
        return value, jnp.where(self.has_gradient, derivative, 1.0)

    def first_two_derivatives(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        """psi'(shift) and psi''(shift), each [B]; 1 and 0 where the gradient vanishes.

        Raises:
            ValueError: the loss has no second derivative.
        """
        try:
            derivative, second_derivative = self._differentiate_twice(shift)
        except (TypeError, ValueError, NotImplementedError) as error:
            # The loss has been differentiated once by now, so it is the second derivative that
            # fails.
            raise ValueError(
                NO_SECOND_DERIVATIVE.format(culprit=self._name_the_culprit(), error=error)
            ) from error
        return derivative, jnp.where(self.has_gradient, second_derivative, 0.0)

    def _differentiate_twice(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        """psi'(shift) and psi''(shift), unmasked."""

        def derivative_at(shift: PerSample) -> PerSample:
            return self.value_and_derivative(shift)[1]

        ones = jnp.ones_like(shift)
        if not self.reverse_mode_only:
            return jax.jvp(derivative_at, (shift,), (ones,))
        # A function with a reverse rule may call itself in that rule, so forward mode over reverse
        # mode could fail. psi'_i depends on the shift of sample i alone: the gradient of the sum
        # has all derivatives.
        derivative, pullback = jax.vjp(derivative_at, shift)
        return derivative, pullback(ones)[0]

    def _name_the_culprit(self) -> str:
        """What of the loss has a first derivative only."""
        names = custom_vjp_names(self.loss, self.outputs)
        return f"{' and '.join(names)}, a jax.custom_vjp, has" if names else "it has"

    def second_derivative_at_zero(self) -> PerSample:
        """psi''(0) = g^T H g / |g|^4 [B], H the Hessian; 0 where the gradient vanishes."""
        return self.first_two_derivatives(jnp.zeros_like(self.gradient_norm))[1]


def loss_along_gradient(loss: PerSampleLoss, outputs: Outputs) -> LossAlongGradient:
    """Evaluates and differentiates `loss` at `outputs`.

    Args:
        loss: maps outputs to losses [B].
        outputs: an array [B, ...] or a tree of such arrays.

    Raises:
        ValueError: `loss` does not return one real number per sample, an output is not per sample,
            or the batch is empty.
    """
    value, pullback = jax.vjp(loss, outputs)
    check_per_sample_outputs(outputs, value)
    validation.refuse_empty_batch("loss(outputs, targets)", value.shape[0])
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss(outputs, targets) returned {value.dtype}. It must return real floating-point "
            "numbers, which can be differentiated."
        )

    def pull_back(cotangent: PerSample) -> Outputs:
        return pullback(cotangent.astype(value.dtype))[0]

    # Samples are separate at the outputs, so one reverse pass gives the gradients of all losses.
    gradient = pull_back(jnp.ones_like(value))
    # The conjugate of a real array is the array itself.
    conjugate = jax.tree.map(jnp.conj, gradient)
    squared_norm = per_sample_dot(gradient, conjugate)
    # The inverse of a subnormal square overflows; such a gradient counts as zero. The inner `where`
    # keeps the division finite, so that derivatives of this function have no NaN either.
    has_gradient = squared_norm > jnp.finfo(squared_norm.dtype).tiny * 1e6
    squared_norm = jnp.where(has_gradient, squared_norm, 1.0)
    inverse = jnp.where(has_gradient, 1 / squared_norm, 0.0)
    direction = jax.tree.map(
        lambda leaf: expand_per_sample(inverse, leaf) * upcast(leaf), conjugate
    )
    return LossAlongGradient(
        loss=loss,
        outputs=outputs,
        value=upcast(value),
        pull_back=pull_back,
        gradient=gradient,
        direction=direction,
        gradient_norm=jnp.where(has_gradient, jnp.sqrt(squared_norm), 0.0),
        reverse_mode_only=bool(custom_vjp_names(loss, outputs)),
    )


class TerminalExpansion(abc.ABC):
    """A terminal model, expanded at the outputs of one batch.

    Attributes:
        exact_loss: the losses that are modelled, along their gradients.
        curvature: h_i [B], >= 0.
        bounds: the smallest and the largest value of psi', or None.
        samples_coupled: whether the losses of some samples depend on the outputs of others; False
            where this has not been asked.
        is_linear: whether the losses are known to be linear in the outputs: psi' is 1 everywhere.
    """

    exact_loss: LossAlongGradient
    curvature: PerSample
    bounds: tuple[float, float] | None = None
    samples_coupled: Flag | bool = False
    is_linear: bool = False

    @abc.abstractmethod
    def derivative(self, shift: PerSample) -> PerSample:
        """psi'(shift) of the model, [B]; 1 at shift = 0."""

    @abc.abstractmethod
    def first_two_derivatives(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        """psi'(shift) and psi''(shift) of the model, each [B]."""

    @abc.abstractmethod
    def loss_change(self, shift: PerSample) -> PerSample:
        """psi(shift) - psi(0) of the model, [B]."""

    def with_gradient_share(self, share: Scalar) -> "TerminalExpansion":
        """The model for a batch in which only a `share` of the samples has a gradient.

        Those samples alone are the same batch with the loss multiplied by `share`. A model that is
        multiplied with its loss, the default, does not need to know.
        """
        del share
        return self


class TerminalModel(abc.ABC):
    """A terminal model: immutable options, and the expansion at the outputs of a batch."""

    @abc.abstractmethod
    def expand(self, loss: PerSampleLoss, outputs: Outputs) -> TerminalExpansion:
        """Expands the model.

        Args:
            loss: maps outputs to losses [B].
            outputs: an array [B, ...] or a tree of such arrays.
        """


@dataclasses.dataclass(frozen=True)
class QuadraticExpansion(TerminalExpansion):
    """A quadratic model, psi(s) = psi(0) + s + h s^2 / 2, without bounds."""

    exact_loss: LossAlongGradient
    curvature: PerSample
    is_linear: bool = False

    @override
    def derivative(self, shift: PerSample) -> PerSample:
        return 1 + self.curvature * shift

    @override
    def first_two_derivatives(self, shift: PerSample) -> tuple[PerSample, PerSample]:
        return self.derivative(shift), self.curvature

    @override
    def loss_change(self, shift: PerSample) -> PerSample:
        return shift + 0.5 * self.curvature * jnp.square(shift)
