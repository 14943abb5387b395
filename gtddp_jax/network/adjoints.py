"""Forward and backward pass through the stages of a `gt.Network`.

| symbol | meaning                                                   |
|--------|-----------------------------------------------------------|
| x_t    | states alive before stage t                               |
| g_t    | adjoint of x_t: the gradient of each sample's own loss    |
| g_h    | adjoint of a player's output h                            |

The backward pass is backpropagation of each sample's own loss. The adjoint of a state that several
stages read is the sum of what they pass back, so shortcuts need no special treatment. An operation
that couples samples (batch normalization) is pulled back as a whole: g_i is then the gradient of
the sum of all losses by sample i's state.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.trees import per_sample_dot, upcast
from gtddp_jax.core.types import Inputs, PerSample, PlayerTrees
from gtddp_jax.network.modes import BatchNormOp, Statistics, run_op
from gtddp_jax.network.program import Stage, StageOp, ValueId

Pullback: TypeAlias = Callable[[jax.Array], tuple[jax.Array, ...]]


class Trajectory(NamedTuple):
    """A forward pass.

    Attributes:
        values: every value by identifier, [B, ...] each.
        pullbacks: by the target of each operation, the map from its adjoint to those of its inputs.
        outputs: the network's outputs, x_T.
        batch_stats: the running statistics that the pass emitted, by layer.
    """

    values: dict[ValueId, jax.Array]
    pullbacks: dict[ValueId, Pullback]
    outputs: jax.Array
    batch_stats: dict[str, Any]


class Adjoints(NamedTuple):
    """A backward pass.

    Attributes:
        player_outputs: the adjoint g_h of each player's output, [B, ...], by its identifier.
        states: for each stage, the adjoints g_t of its input states; None for the network's input,
            which does not change.
    """

    player_outputs: dict[ValueId, jax.Array]
    states: tuple[tuple[jax.Array | None, ...], ...]


def _differentiated_sources(op: StageOp, network_input: ValueId) -> tuple[int, ...]:
    """Positions of the inputs of an operation that get an adjoint."""
    return tuple(i for i, source in enumerate(op.sources) if source != network_input)


def forward_pass(stages: tuple[Stage, ...], params: PlayerTrees, x: Inputs) -> Trajectory:
    """Runs the network on inputs `x` [B, ...]; stages as from `Network.bind`."""
    network_input = stages[0].inputs[0]
    values: dict[ValueId, Any] = {network_input: x}
    batch_stats: dict[str, Any] = {}
    pullbacks: dict[ValueId, Pullback] = {}
    for stage in stages:
        for op in stage.ops:
            op_inputs = [values[source] for source in op.sources]
            # The network's input may be of integers, which have no derivative.
            positions = _differentiated_sources(op, network_input)

            # Defaults bind the loop variables now; the pullback is called after the loop.
            def run_with(
                *changing: jax.Array,
                op: StageOp = op,
                op_inputs: list[Any] = op_inputs,
                positions: tuple[int, ...] = positions,
            ) -> tuple[jax.Array, dict[str, Any]]:
                all_inputs = list(op_inputs)
                for position, value in zip(positions, changing, strict=True):
                    all_inputs[position] = value
                return run_op(op, params, *all_inputs)

            values[op.target], pullbacks[op.target], emitted = jax.vjp(
                run_with, *(op_inputs[position] for position in positions), has_aux=True
            )
            batch_stats |= emitted
    # Only the network's output is alive after the last stage.
    (output,) = stages[-1].outputs
    return Trajectory(values, pullbacks, values[output], batch_stats)


def backward_pass(
    stages: tuple[Stage, ...], trajectory: Trajectory, gradient: jax.Array
) -> Adjoints:
    """Propagates the output gradients [B, ...] to every player and every live state."""
    network_input = stages[0].inputs[0]
    adjoints: dict[ValueId, jax.Array] = {stages[-1].outputs[0]: gradient}
    states: list[tuple[jax.Array | None, ...]] = []
    for stage in reversed(stages):
        for op in reversed(stage.ops):
            positions = _differentiated_sources(op, network_input)
            contributions = trajectory.pullbacks[op.target](adjoints[op.target])
            for position, contribution in zip(positions, contributions, strict=True):
                source = op.sources[position]
                # A value that several operations read gets one contribution from each.
                adjoints[source] = (
                    adjoints[source] + contribution if source in adjoints else contribution
                )
        states.append(
            tuple(None if value == network_input else adjoints[value] for value in stage.inputs)
        )
    player_outputs = {
        player_op.target: adjoints[player_op.target]
        for stage in stages
        for player_op in stage.player_ops
    }
    return Adjoints(player_outputs, tuple(reversed(states)))


def synchronize_statistics(
    normalizations: Sequence[BatchNormOp], trajectory: Trajectory, samples: SampleReductions
) -> Statistics:
    """The running statistics that a pass emitted, the same on all devices.

    A layer without `axis_name` normalizes each device's samples by their own statistics; its
    running statistics are the mean over devices.
    """
    statistics = dict(trajectory.batch_stats)
    for op in normalizations:
        axes = op.unsynchronized_axes(samples.axes)
        # A layer in evaluation mode (frozen) emits nothing.
        if axes and op.name in statistics:
            statistics[op.name] = jax.lax.pmean(statistics[op.name], axes)
    return statistics


def state_change(
    adjoints: tuple[jax.Array | None, ...],
    new_states: tuple[jax.Array, ...],
    old_states: tuple[jax.Array, ...],
) -> PerSample:
    """`g_t . (x'_t - x_t)` over all live states, [B], in at least float32."""
    # Differences are taken after the upcast: nearby states in bfloat16 would lose them.
    live = [
        (adjoint, upcast(new_state) - upcast(old_state))
        for adjoint, new_state, old_state in zip(adjoints, new_states, old_states, strict=True)
        if adjoint is not None
    ]
    return per_sample_dot([adjoint for adjoint, _ in live], [change for _, change in live])


def stage_states(stage: Stage, values: Mapping[ValueId, Any]) -> tuple[Any, ...]:
    """The live states before a stage."""
    return tuple(values[value] for value in stage.inputs)
