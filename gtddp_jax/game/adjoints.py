"""Ordinary forward and backward pass that keep what the game needs (DESIGN §1: x, g).

The backward pass is plain backpropagation of each sample's own loss: the adjoint of a state that
is read by several stages adds up, so the live edges of a residual network need no extra care. An
operation that couples samples (batch normalisation) is pulled back as a whole: g_i is then the
gradient of the sum of all losses by sample i's state (DESIGN §7).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import inner, wide
from gtddp_jax.core.types import Inputs
from gtddp_jax.network.modes import Normalise, observed
from gtddp_jax.network.program import Op, Params, Stage, Value

Pullback = Callable[[jax.Array], tuple[jax.Array, ...]]


class Trajectory(NamedTuple):
    """A forward pass.

    Attributes:
        values: every value by identifier, [B, ...] each.
        pullbacks: how adjoints pass each operation, by the identifier of its target.
        outputs: x_T.
        batch_stats: the running statistics that it emitted, by layer.
    """

    values: dict[Value, jax.Array]
    pullbacks: dict[Value, Pullback]
    outputs: jax.Array
    batch_stats: dict[str, Any]


class Adjoints(NamedTuple):
    """A backward pass.

    Attributes:
        moves: the adjoint g_h of each player's output, [B, ...], by the identifier of that output.
        states: for each stage, the adjoints g_t of its input states (None for the network input,
            which does not change).
    """

    moves: dict[Value, jax.Array]
    states: tuple[tuple[jax.Array | None, ...], ...]


def _differentiable(op: Op, given: Value) -> tuple[int, ...]:
    return tuple(i for i, source in enumerate(op.sources) if source != given)


def forward(stages: tuple[Stage, ...], params: Params, x: Inputs) -> Trajectory:
    """Runs the network on inputs `x` [B, ...]; stages as from `Network.bind`."""
    given = stages[0].inputs[0]
    values: dict[Value, Any] = {given: x}
    batch_stats: dict[str, Any] = {}
    pullbacks: dict[Value, Pullback] = {}
    for stage in stages:
        for op in stage.ops:
            xs = [values[v] for v in op.sources]
            free = _differentiable(op, given)

            def f(*moved: jax.Array, op: Op = op, xs: list = xs, free: tuple = free) -> Any:
                full = list(xs)
                for i, value in zip(free, moved, strict=True):
                    full[i] = value
                return observed(op, params, *full)

            values[op.target], pullbacks[op.target], emitted = jax.vjp(
                f, *(xs[i] for i in free), has_aux=True
            )
            batch_stats |= emitted
    (last,) = stages[-1].outputs
    return Trajectory(values, pullbacks, values[last], batch_stats)


def backward(stages: tuple[Stage, ...], trajectory: Trajectory, g: jax.Array) -> Adjoints:
    """Propagates the output gradients `g` [B, ...] to every player and every live state."""
    given = stages[0].inputs[0]
    total: dict[Value, jax.Array] = {stages[-1].outputs[0]: g}
    states: list[tuple[jax.Array | None, ...]] = []
    for stage in reversed(stages):
        for op in reversed(stage.ops):
            free = _differentiable(op, given)
            parts = trajectory.pullbacks[op.target](total[op.target])
            for i, part in zip(free, parts, strict=True):
                source = op.sources[i]
                total[source] = total[source] + part if source in total else part
        states.append(tuple(None if v == given else total[v] for v in stage.inputs))
    moves = {act.target: total[act.target] for stage in stages for act in stage.acts}
    return Adjoints(moves, tuple(reversed(states)))


def common_statistics(
    normalisations: Sequence[Normalise], trajectory: Trajectory, samples: Samples
) -> dict[str, Any]:
    """The running statistics that a pass emitted, the same on all devices.

    A layer without `axis_name` has normalised each device's samples by their own statistics; the
    running ones are the mean over devices.
    """
    found = dict(trajectory.batch_stats)
    for op in normalisations:
        axes = op.unsynchronised(samples.axes)
        if axes and op.name in found:
            found[op.name] = jax.lax.pmean(found[op.name], axes)
    return found


def state_change(
    adjoints: tuple[jax.Array | None, ...],
    new: tuple[jax.Array, ...],
    old: tuple[jax.Array, ...],
) -> jax.Array:
    """`g_t . (x'_t - x_t)` over all live states, [B], in at least float32."""
    live = [(g, a, b) for g, a, b in zip(adjoints, new, old, strict=True) if g is not None]
    return inner([g for g, _, _ in live], [wide(a) - wide(b) for _, a, b in live])


def stage_states(stage: Stage, values: Mapping[Value, Any]) -> tuple[Any, ...]:
    """The live states before a stage."""
    return tuple(values[v] for v in stage.inputs)
