"""A use of parameters with the arrays of one batch, and the contract of its per-sample gradients.

| symbol | meaning                                                     | shape                  |
|--------|-------------------------------------------------------------|------------------------|
| `g`    | adjoint: gradient of each sample's loss by the use's output | of the output          |
| `G_i`  | gradient of sample i's loss by the use's operands           | of the operands        |
| `w`    | one weight per sample                                       | [B]                    |
| `k`    | a change of the operands                                    | of the operands        |
| `d`    | the diagonal of a preconditioner                            | of the operand, or ()  |
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.reverse_rules import directional_derivative
from gtddp_jax.core.trees import upcast
from gtddp_jax.tracing.sample_axes import SampleAxis
from gtddp_jax.tracing.traced_program import TracedEquation

Operands: TypeAlias = tuple[jax.Array, ...]
"""One array for each operand of a use: values, gradients or changes."""

SplitUse: TypeAlias = tuple[Any, Callable[[Any], Operands]]
"""Data with a leading sample axis, and the function from one sample's data to its gradient."""


@dataclasses.dataclass(frozen=True)
class BoundUse:
    """A use of parameters together with the arrays of one batch.

    An *operand* is an input of the operation that is computed from parameters alone.

    Attributes:
        equation: the operation.
        operand_positions: which inputs are operands.
        inputs: all inputs.
        input_axes: the sample axis of each input, None for operands and values of the batch.
        output_positions: which outputs are activations.
        adjoints: the gradients of each sample's loss by these outputs.
        output_axes: the sample axes of these outputs.
        batch_size: B.
        single_sample_equation: returns the same operation for one sample, or None if tracing the
            model with one sample gives another operation.
    """

    equation: TracedEquation
    operand_positions: tuple[int, ...]
    inputs: tuple[Any, ...]
    input_axes: tuple[SampleAxis | None, ...]
    output_positions: tuple[int, ...]
    adjoints: tuple[jax.Array, ...]
    output_axes: tuple[SampleAxis, ...]
    batch_size: int
    single_sample_equation: Callable[[], TracedEquation | None]

    @property
    def operands(self) -> Operands:
        """The values of the operands."""
        return tuple(self.inputs[position] for position in self.operand_positions)

    @property
    def is_unary(self) -> bool:
        """Whether there is one operand and one activation."""
        return len(self.operand_positions) == 1 and len(self.output_positions) == 1

    @property
    def stored_numbers(self) -> int:
        """How many numbers the data and the adjoints hold."""
        sampled = (
            np.size(array)
            for array, axis in zip(self.inputs, self.input_axes, strict=True)
            if axis is not None
        )
        return int(sum(sampled)) + sum(adjoint.size for adjoint in self.adjoints)

    def evaluate_outputs(self, operands: Operands) -> Operands:
        """The activations for other values of the operands."""
        # Data stay as they are: the use is a function of its operands.
        inputs = list(self.inputs)
        for position, operand in zip(self.operand_positions, operands, strict=True):
            inputs[position] = operand
        outputs = self.equation(*inputs)
        return tuple(outputs[position] for position in self.output_positions)


class UseGradients(abc.ABC):
    """The per-sample gradients `G_i` of one use, and the sums over samples made of them.

    The defaults work for every operation: they differentiate the operation itself.

    Attributes:
        kind: name of the kind, as in the table of `gtddp_jax.tracing.ops`.
        use: the use.
    """

    kind: str

    def __init__(self, use: BoundUse) -> None:
        self.use: BoundUse = use

    @property
    def sums_positions(self) -> bool:
        """Whether the gradient of one sample is itself a sum, over positions."""
        return True

    def weighted_sum(self, w: jax.Array | None) -> Operands:
        """`sum_i w_i G_i` in at least float32; `w=None` means ones."""
        scaled = tuple(
            # Weights and adjoints are multiplied in high precision and rounded once.
            g if w is None else (axis.broadcast_weights(w, g.ndim) * upcast(g)).astype(g.dtype)
            for g, axis in zip(self.use.adjoints, self.use.output_axes, strict=True)
        )
        # The sum over samples is the vjp of the whole operation at weighted adjoints.
        _, pullback = jax.vjp(self.use.evaluate_outputs, self.use.operands)
        (totals,) = pullback(scaled)
        return tuple(map(upcast, totals))

    def directional_derivative(self, k: Operands) -> jax.Array:
        """`G_i . k` for every sample, [B]."""
        # G_i . k is the change of sample i's loss: the adjoint times the change of the output.
        operands = self.use.operands
        tangents = tuple(v.astype(p.dtype) for v, p in zip(k, operands, strict=True))
        changes: Any = directional_derivative(self.use.evaluate_outputs, (operands,), (tangents,))
        # Rows of one sample are summed together with its other axes.
        products = [
            (axis.to_front(upcast(g)) * axis.to_front(upcast(change))).sum(
                range(1, g.ndim + (axis.rows > 1))
            )
            for g, change, axis in zip(
                self.use.adjoints, changes, self.use.output_axes, strict=True
            )
        ]
        return jnp.stack(products).sum(0)

    def quadratic_form(self, d: jax.Array) -> jax.Array | None:
        """`G_i^T diag(d) G_i` [B] of a use with one operand.

        None if there is no way to compute it without holding `G_i`.
        """
        del d
        return None

    @abc.abstractmethod
    def split_by_sample(self) -> SplitUse:
        """Data with a leading sample axis, and the function from one sample's data to `G_i`."""

    def sample_gradients(self) -> Operands:
        """`G_i` of all samples, [B, ...] each."""
        data, gradient = self.split_by_sample()
        return jax.vmap(gradient)(data)
