"""From a direction in the states of a network to an image (Zeiler and Fergus 2014).

Going backwards, a convolution or dense layer is replaced by its transpose, an addition by copies, a
pooling by the transpose of what it did to this image (a maximum goes back to where it came from:
the "switches"), and a ReLU by a ReLU on the signal itself. That last rule is what tells it from
backpropagation, where a ReLU passes the signal wherever its *input* was positive.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gtddp_jax.network.program import Map, Op, Stage

Tree = Any
Signal = jax.Array

RULES: dict[Any, Callable[[Signal], Signal]] = {nn.relu: nn.relu}  # flax's is jax's
"""Functions with a rule of their own for the signal; everything else is transposed."""


def project(
    stages: Sequence[Stage], params: Tree, inputs: jax.Array, direction: Sequence[Signal]
) -> Signal:
    """Projects a direction in the states before some stage to image space.

    Args:
        stages: those before the states, in order; for a network with batch normalisation from
            `Network.bind`.
        params: `{player: tree}`.
        inputs: the images [B, ...].
        direction: one array for each live state after `stages`, as they are in the forward pass.

    Returns:
        The projection, like `inputs`.
    """
    states: tuple[jax.Array, ...] = (inputs,)
    runs: list[Any] = []
    for stage in stages:
        runs.append(stage.run(params, states))
        states = tuple(runs[-1][v] for v in stage.outputs)
    signals = tuple(direction)
    for stage, values in zip(reversed(stages), reversed(runs), strict=True):
        total = dict(zip(stage.outputs, signals, strict=True))
        for op in reversed(stage.ops):
            if op.target not in total:
                continue
            xs = [values[v] for v in op.sources]
            parts = _transposed(op, params, xs, total[op.target])
            for source, part in zip(op.sources, parts, strict=True):
                total[source] = total[source] + part if source in total else part
        signals = tuple(total.get(v, jnp.zeros_like(values[v])) for v in stage.inputs)
    (image,) = signals
    return image


def _transposed(op: Op, params: Tree, xs: list[jax.Array], signal: Signal) -> tuple[Signal, ...]:
    if isinstance(op, Map) and op.function in RULES:
        return (RULES[op.function](signal),)
    return jax.vjp(lambda *xs: op(params, *xs), *xs)[1](signal)
