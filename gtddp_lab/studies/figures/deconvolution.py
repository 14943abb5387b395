"""Projection of a direction in the states of a network to an image (Zeiler and Fergus 2014).

Backward through the network, a convolution or dense layer is replaced by its transpose and an
addition by copies. Pooling is replaced by the transpose of its action on this image: a maximum
returns to its original position (the "switches"). A ReLU is replaced by a ReLU of the signal. Only
the last rule differs from backpropagation, where a ReLU passes the signal wherever its *input* was
positive.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

import gtddp_jax as gt
from gtddp_jax.network import FunctionOp, StageOp
from gtddp_lab.training.state import Params

Signal: TypeAlias = jax.Array

SIGNAL_RULES: dict[Any, Callable[[Signal], Signal]] = {nn.relu: nn.relu}  # the same object as jax's
"""Functions that act on the signal by a rule of their own; all other operations are transposed."""


def project_to_image(
    stages: Sequence[gt.Stage],
    params: Params,
    inputs: jax.Array,
    direction: Sequence[Signal],
) -> Signal:
    """Project a direction in the states before some stage to image space.

    Args:
        stages: the stages before these states, in order; for a network with batch normalisation
            those of `Network.bind`.
        params: `{player: tree}`.
        inputs: the images [B, ...].
        direction: one array for each live state after `stages`, of the same shape.

    Returns:
        The projection, of the shape of `inputs`.
    """
    states: tuple[jax.Array, ...] = (inputs,)
    stage_values: list[Any] = []
    for stage in stages:
        stage_values.append(stage.run(params, states))
        states = tuple(stage_values[-1][value] for value in stage.outputs)
    signals = tuple(direction)
    for stage, values in zip(reversed(stages), reversed(stage_values), strict=True):
        total = dict(zip(stage.outputs, signals, strict=True))
        for op in reversed(stage.ops):
            if op.target not in total:
                continue  # this direction does not reach the operation
            op_inputs = [values[source] for source in op.sources]
            for source, signal in zip(
                op.sources, _transpose_op(op, params, op_inputs, total[op.target]), strict=True
            ):
                total[source] = total[source] + signal if source in total else signal
        signals = tuple(total.get(value, jnp.zeros_like(values[value])) for value in stage.inputs)
    (image,) = signals
    return image


def _transpose_op(
    op: StageOp, params: Params, op_inputs: list[jax.Array], signal: Signal
) -> tuple[Signal, ...]:
    if isinstance(op, FunctionOp) and op.function in SIGNAL_RULES:
        return (SIGNAL_RULES[op.function](signal),)
    return jax.vjp(lambda *op_inputs: op(params, *op_inputs), *op_inputs)[1](signal)
