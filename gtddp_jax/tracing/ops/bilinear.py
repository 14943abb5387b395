"""Products and sums of data and parameters: every sum over samples is an einsum.

| symbol | meaning                                     | shape                 |
|--------|---------------------------------------------|-----------------------|
| `x`    | data that multiplies the operand            | [B, ...]              |
| `g`    | adjoints of the output                      | [B, ...]              |

`w`, `k` and `d` are as in `gtddp_jax.tracing.ops.base`. Axes are labelled by integers, as in
`jnp.einsum`: equal labels are the same axis, and `SAMPLE` is the sample axis.
"""

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from gtddp_jax.core.trees import expand_per_sample, upcast
from gtddp_jax.tracing.ops.base import BoundUse, Operands, SplitUse, UseGradients
from gtddp_jax.tracing.sample_axes import SampleAxis

AxisLabels: TypeAlias = tuple[int, ...]
SAMPLE = 0


class BilinearUse(UseGradients):
    """An operation that is linear in its operand, with data or a constant as the factor.

    An axis that neither the sample nor the operand has is summed in the gradient of one sample:
    such an axis runs over positions.

    Args:
        use: the use.
        x: the data, sample axis first; None where the operand is only added.
        x_labels: labels of the axes of `x`.
        g_labels: labels of the axes of the adjoints, sample axis first.
        operand_labels: labels of the axes of the operand that are longer than 1.
        sign: -1 for an operand that is subtracted.
    """

    kind = "bilinear"

    def __init__(
        self,
        use: BoundUse,
        x: jax.Array | None,
        x_labels: AxisLabels,
        g_labels: AxisLabels,
        operand_labels: AxisLabels,
        sign: int = 1,
    ) -> None:
        super().__init__(use)
        ((g,), (axis,)) = use.adjoints, use.output_axes
        self._g, self._x = axis.to_front(upcast(g)) * sign, None if x is None else upcast(x)
        self._x_labels, self._g_labels = x_labels, g_labels
        self._operand_labels = operand_labels

    @property
    def _change_labels(self) -> AxisLabels:
        """The axes of the output that a product of data and operand has."""
        known = {*self._x_labels, *self._operand_labels}
        return tuple(label for label in self._g_labels if label in known)

    @property
    @override
    def sums_positions(self) -> bool:
        return bool({*self._x_labels, *self._g_labels} - {SAMPLE, *self._operand_labels})

    def _contract(self, x: jax.Array | None, g: jax.Array, labels: AxisLabels) -> jax.Array:
        """The einsum of data and adjoints onto the axes `labels`."""
        # An operand that is added has the adjoint itself as its gradient.
        if x is None:
            return jnp.einsum(g, self._g_labels, labels)
        return jnp.einsum(x, self._x_labels, g, self._g_labels, labels)

    def _as_operand(self, gradient: jax.Array, leading: tuple[int, ...] = ()) -> jax.Array:
        """A gradient with the operand's axes of length 1 restored."""
        return gradient.reshape(*leading, *self.use.operands[0].shape)

    def _squeeze(self, operand_like: jax.Array) -> jax.Array:
        """An array of the operand's shape without axes of length 1."""
        shape = self.use.operands[0].shape
        return operand_like.reshape([length for length in shape if length != 1])

    @override
    def weighted_sum(self, w: jax.Array | None) -> Operands:
        g = self._g if w is None else expand_per_sample(w, self._g) * self._g
        return (self._as_operand(self._contract(self._x, g, self._operand_labels)),)

    @override
    def directional_derivative(self, k: Operands) -> jax.Array:
        change = self._squeeze(upcast(k[0]))
        if self._x is None:
            return jnp.einsum(self._g, self._g_labels, change, self._operand_labels, (SAMPLE,))
        # First the change of the output, as a forward pass would: G_i itself is never formed.
        labels = self._change_labels
        output_change = jnp.einsum(self._x, self._x_labels, change, self._operand_labels, labels)
        return jnp.einsum(self._g, self._g_labels, output_change, labels, (SAMPLE,))

    @override
    def quadratic_form(self, d: jax.Array) -> jax.Array | None:
        # Without a sum over positions, the squares of G_i are products of squares.
        if self.sums_positions:
            return None
        x = None if self._x is None else jnp.square(self._x)
        g, d = jnp.square(self._g), upcast(d)
        # A scalar scales the whole array, unless the operand is a scalar itself.
        if d.ndim == 0 and self.use.operands[0].ndim:
            return d * self._contract(x, g, (SAMPLE,))
        d = self._squeeze(d)
        if x is None:
            return jnp.einsum(g, self._g_labels, d, self._operand_labels, (SAMPLE,))
        labels = self._change_labels
        scaled = jnp.einsum(x, self._x_labels, d, self._operand_labels, labels)
        return jnp.einsum(g, self._g_labels, scaled, labels, (SAMPLE,))

    @override
    def split_by_sample(self) -> SplitUse:
        # The same contraction without the sample axis.
        x_labels, g_labels = (
            tuple(label for label in labels if label != SAMPLE)
            for labels in (self._x_labels, self._g_labels)
        )

        def gradient(sample: Any) -> Operands:
            x, g = sample
            if x is None:
                total = jnp.einsum(g, g_labels, self._operand_labels)
            else:
                total = jnp.einsum(x, x_labels, g, g_labels, self._operand_labels)
            return (self._as_operand(total),)

        return (self._x, self._g), gradient

    @override
    def sample_gradients(self) -> Operands:
        gradients = self._contract(self._x, self._g, (SAMPLE, *self._operand_labels))
        return (self._as_operand(gradients, (self.use.batch_size,)),)


def _sample_first(labels: Sequence[int], sample_axis: SampleAxis, rows_label: int) -> AxisLabels:
    """The labels of `sample_axis.to_front(array)`: the sample axis first, then its rows."""
    others = [label for axis, label in enumerate(labels) if axis != sample_axis.axis]
    return (SAMPLE, *((rows_label,) if sample_axis.rows > 1 else ()), *others)


def _dot_general_labels(
    use: BoundUse, fresh: "itertools.count[int]"
) -> tuple[list[int], list[int], list[int]]:
    """Labels of the axes of a dot_general: left input, right input, output."""
    contracted, batch = use.equation.params["dimension_numbers"]
    labels: list[dict[int, int]] = [{}, {}]
    # Paired axes of the two inputs are the same axis, so they share a label.
    for left_axes, right_axes in (batch, contracted):
        for left, right in zip(left_axes, right_axes, strict=True):
            labels[0][left] = labels[1][right] = next(fresh)
    sides = [
        [side_labels[axis] if axis in side_labels else next(fresh) for axis in range(np.ndim(x))]
        for side_labels, x in zip(labels, use.inputs, strict=True)
    ]
    # dot_general writes the batch axes first, then the free axes of the left and right inputs.
    output = [sides[0][axis] for axis in batch[0]]
    for side, paired in zip(sides, labels, strict=True):
        output += [label for axis, label in enumerate(side) if axis not in paired]
    return sides[0], sides[1], output


def match_dot_general(use: BoundUse) -> UseGradients | None:
    """Recognises a matrix product of data and an operand."""
    if use.equation.name != "dot_general" or not use.is_unary:
        return None
    (operand_position,) = use.operand_positions
    data_position = 1 - operand_position
    data_axis, output_axis = use.input_axes[data_position], use.output_axes[0]
    if data_axis is None:
        return None
    fresh = itertools.count(SAMPLE + 1)
    *sides, output = _dot_general_labels(use, fresh)
    # The rows of a sample are one more axis, the same in data and output.
    rows_label = next(fresh)
    shape = np.shape(use.inputs[operand_position])
    operand_labels = tuple(
        label for label, length in zip(sides[operand_position], shape, strict=True) if length != 1
    )
    sample_label = sides[data_position][data_axis.axis]
    # The sample axis must pass from the data to the output, untouched by the operand.
    if sample_label in operand_labels or output[output_axis.axis] != sample_label:
        return None
    x_labels = _sample_first(sides[data_position], data_axis, rows_label)
    g_labels = _sample_first(output, output_axis, rows_label)
    x = data_axis.to_front(use.inputs[data_position])
    return BilinearUse(use, x, x_labels, g_labels, operand_labels)


ADDITIONS = ("add", "add_any", "sub")
ELEMENTWISE_OPS = (*ADDITIONS, "mul", "div")


def match_elementwise(use: BoundUse) -> UseGradients | None:
    """Recognises an operand added to data or multiplied with it, the same for all samples."""
    name = use.equation.name
    if name not in ELEMENTWISE_OPS or not use.is_unary:
        return None
    (operand_position,) = use.operand_positions
    operand, x = use.operands[0], use.inputs[1 - operand_position]
    data_axis, output_axis = use.input_axes[1 - operand_position], use.output_axes[0]
    ndim = use.adjoints[0].ndim
    if np.ndim(operand) not in (0, ndim):
        return None
    # The operand must be broadcast along the sample axis, or it would differ between samples.
    if np.ndim(operand) and operand.shape[output_axis.axis] != 1:
        return None
    labels, rows_label = list(range(1, ndim + 1)), ndim + 1
    g_labels = _sample_first(labels, output_axis, rows_label)
    operand_labels = tuple(
        label for label, length in zip(labels, np.shape(operand), strict=False) if length != 1
    )
    if name in ADDITIONS:
        sign = -1 if name == "sub" and operand_position == 1 else 1
        return BilinearUse(use, None, (), g_labels, operand_labels, sign)
    # Data without a sample axis, or broadcast themselves, are left to the generic kind.
    if data_axis is None or data_axis != output_axis or np.ndim(x) != ndim:
        return None
    # The derivative of a quotient by the operand p: of p / x it is 1 / x, of x / p it is -x / p^2.
    if name == "div" and operand_position == 0:
        x = 1 / x
    elif name == "div":
        x = -x / jnp.square(operand.reshape(operand.shape or (1,) * ndim))
    x = data_axis.to_front(x)
    x_labels = _sample_first(labels, data_axis, rows_label)
    # An axis of length 1 is broadcast against the output, so it carries no label.
    kept = [axis for axis, length in enumerate(x.shape) if axis == 0 or length != 1]
    x = x.reshape([x.shape[axis] for axis in kept])
    return BilinearUse(use, x, tuple(x_labels[axis] for axis in kept), g_labels, operand_labels)


def match_broadcast(use: BoundUse) -> UseGradients | None:
    """Recognises an operand repeated for every sample (a class token, an initial state)."""
    if use.equation.name != "broadcast_in_dim" or not use.is_unary:
        return None
    output_positions = use.equation.params["broadcast_dimensions"]
    output_axis, operand = use.output_axes[0], use.operands[0]
    repeats = output_axis.axis not in output_positions
    if not repeats and operand.shape[output_positions.index(output_axis.axis)] != 1:
        return None
    ndim = use.adjoints[0].ndim
    g_labels = _sample_first(list(range(1, ndim + 1)), output_axis, ndim + 1)
    operand_labels = tuple(
        1 + position
        for position, length in zip(output_positions, operand.shape, strict=True)
        if length != 1
    )
    return BilinearUse(use, None, (), g_labels, operand_labels)
