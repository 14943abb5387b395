"""`SplitLosses`: a function of losses as a model and a loss, which is how games see it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.loss_pairing import check_captured_pairing
from gtddp_jax.core.outputs import is_differentiable_leaf
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Number, Outputs, PerSample, Scalar, Tree
from gtddp_jax.losses.losses import Losses, call_losses
from gtddp_jax.losses.per_sample import (
    check_rows,
    check_values,
    masked_values,
)

HIDDEN_PARAMS = (
    "gtddp_jax.Losses: {part} uses a value that was computed from the parameters, so that the "
    "game would not see how a step changes it. Put the value into outputs, a tuple or dict of all "
    "that the losses of the samples depend on; if it is to be a constant, apply "
    "jax.lax.stop_gradient to it in per_sample. A cost of the parameters alone, or of the whole "
    "batch, belongs into regularizer."
)


class SplitLosses:
    """One batch: the model, `forward`, and the loss of its outputs, `loss`.

    With losses [B, T] each of the B T tokens is a sample: `forward` returns outputs [B T, ...] and
    `loss` returns [B T].

    Args:
        losses_fn: `losses(params) -> Losses`.
        axis_name: the mapped axis over devices, or None.
    """

    def __init__(self, losses_fn: Callable[[Tree], Losses], axis_name: AxisName) -> None:
        self._losses_fn = losses_fn
        self._axis_name = axis_name
        self._first: Losses | None = None
        self._rows: tuple[int, ...] = ()

    def forward(self, params: Tree) -> tuple[Outputs, Tree | None]:
        """The outputs, with one row per sample, and aux."""
        losses = call_losses(self._losses_fn, params)
        if self._first is None:
            # Later calls may be made inside a conditional, from which no value may escape.
            values = _checked_values(losses, params)
            check_rows(losses.outputs, values)
            check_captured_pairing(losses.per_sample, losses.outputs)
            self._first, self._rows = losses, values.shape
        merged = (math.prod(self._rows),)
        return _with_leading_axes(losses.outputs, len(self._rows), merged), losses.aux

    def loss(self, outputs: Outputs) -> PerSample:
        """The losses of the samples, of which those in the mask have the mean of the batch."""
        assert self._first is not None, "forward has not been called yet"
        return self._values(self._first, _with_leading_axes(outputs, 1, self._rows))

    def regularizer_and_grad(self, params: Tree) -> tuple[Number, Tree | None]:
        """The regularizer and its gradient, means over devices; None for that of a constant."""
        assert self._first is not None, "forward has not been called yet"
        if isinstance(self._first.regularizer, (int, float)):
            return self._first.regularizer, None
        samples = SampleReductions(1, self._axis_name)

        def regularizer(params: Tree) -> Scalar:
            return jnp.asarray(call_losses(self._losses_fn, params).regularizer)

        # It may be computed from the samples of this device, as a penalty of a mixture of experts.
        value, gradient = jax.value_and_grad(regularizer)(samples.local_copy(params))
        return samples.mean(value[None]), samples.mean_of_sums(gradient)

    def _values(self, losses: Losses, outputs: Outputs) -> PerSample:
        return masked_values(losses, outputs, self._axis_name).reshape(-1)


def _with_leading_axes(outputs: Outputs, count: int, shape: tuple[int, ...]) -> Outputs:
    """The outputs with other leading axes: `shape` in place of the first `count`."""
    return jax.tree.map(
        lambda leaf: (
            leaf.reshape(*shape, *leaf.shape[count:]) if is_differentiable_leaf(leaf) else leaf
        ),
        outputs,
    )


def _checked_values(losses: Losses, params: Tree) -> jax.ShapeDtypeStruct:
    """The shape of the losses; raises if they depend on the parameters beside the outputs."""
    program = jax.make_jaxpr(losses.per_sample)(losses.outputs)
    if len(program.out_avals) != 1:
        raise ValueError(
            f"gtddp_jax.Losses: per_sample returned a tree of {len(program.out_avals)} arrays. It "
            "must return one array of losses, [B] or [B, T]; add the losses of a sample up."
        )
    (values,) = program.out_avals
    check_values(losses, values)
    if _depend_on(params, program.consts):
        raise ValueError(HIDDEN_PARAMS.format(part="per_sample"))
    if losses.mask is not None and _depend_on(params, [losses.mask]):
        raise ValueError(HIDDEN_PARAMS.format(part="mask"))
    return jax.ShapeDtypeStruct(values.shape, values.dtype)


def _depend_on(params: Tree, values: list[Any]) -> bool:
    """Whether values were computed from parameters that are being differentiated."""
    traces = [_trace_of(leaf) for leaf in jax.tree.leaves(params)]
    return any(
        _trace_of(value) is trace for value in values for trace in traces if trace is not None
    )


def _trace_of(value: object) -> object | None:
    """The differentiation that a value takes part in, or None."""
    # Under jit every value is a tracer, of whose trace the values of a batch are part as well.
    is_differentiated = "DynamicJaxpr" not in type(value).__name__
    return getattr(value, "_trace", None) if is_differentiated else None
