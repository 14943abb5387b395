"""What is known of a network's game without running it: stages, players, shapes, cost rules."""

from typing import NamedTuple, TypeAlias

import jax

from gtddp_jax.core.types import InputsLike, PlayerTrees
from gtddp_jax.network.modes import FRESH_MODE, bind_stages
from gtddp_jax.network.naming import layer_label
from gtddp_jax.network.network import Network
from gtddp_jax.network.program import Stage, ValueId
from gtddp_jax.network.sample_gradients import cost_rule, parameter_count

INPUTS = -1
"""`EdgeFacts.stage` of the network's inputs, which no stage writes."""

Shape: TypeAlias = tuple[int, ...]


class PlayerFacts(NamedTuple):
    """One player.

    Attributes:
        name: key into the parameters.
        layer: type of its module.
        input: shape of its input, batch included.
        output: shape of its output, batch included.
        parameters: number of its parameters.
        rule: cost rule of its sums over samples at this batch size, with feedback on.
    """

    name: str
    layer: str
    input: Shape
    output: Shape
    parameters: int
    rule: str


class EdgeFacts(NamedTuple):
    """A state that a stage reads.

    Attributes:
        stage: the stage that writes it, or `INPUTS`.
        shape: its shape, batch included.
    """

    stage: int
    shape: Shape


class StageFacts(NamedTuple):
    """One stage.

    Attributes:
        players: the players that act in it.
        reads: the states that it reads; one from before the previous stage is a shortcut.
        live: shapes of the states alive after it.
    """

    players: tuple[PlayerFacts, ...]
    reads: tuple[EdgeFacts, ...]
    live: tuple[Shape, ...]


def stage_facts(net: Network, params: PlayerTrees, x: InputsLike) -> tuple[StageFacts, ...]:
    """Describes the game at a batch's shape; nothing is computed.

    Args:
        net: the network.
        params: its parameters.
        x: an input batch [B, ...]; its batch size decides the cost rules.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> net = gt.Network([gt.Residual([nn.Dense(3), nn.relu, nn.Dense(3)]), nn.Dense(2)])
        >>> x = jnp.ones((8, 3))
        >>> params = net.init(jax.random.key(0), x)
        >>> [stage.reads for stage in gt.network.stage_facts(net, params, x)][1]
        (EdgeFacts(stage=0, shape=(8, 3)), EdgeFacts(stage=-1, shape=(8, 3)))
    """
    net.check_params(params)

    def stage_values(params: PlayerTrees, x: jax.Array) -> list[dict[ValueId, jax.Array]]:
        states, values = (x,), []
        for stage in bind_stages(net.stages, FRESH_MODE):
            values.append(stage.run(params, states))
            states = tuple(values[-1][output] for output in stage.outputs)
        return values

    # Traced for its shapes; nothing is computed.
    shapes_by_stage = jax.eval_shape(stage_values, params, x)
    written_in = dict.fromkeys(net.stages[0].inputs, INPUTS)
    facts: list[StageFacts] = []
    for number, (stage, shapes) in enumerate(zip(net.stages, shapes_by_stage, strict=True)):
        # dict.fromkeys keeps the order and drops repetitions.
        reads = dict.fromkeys(
            source for op in stage.ops for source in op.sources if source in written_in
        )
        facts.append(
            StageFacts(
                _player_facts(stage, shapes, params),
                tuple(EdgeFacts(written_in[value], shapes[value].shape) for value in reads),
                tuple(shapes[value].shape for value in stage.outputs),
            )
        )
        # Only now, so that values written inside the stage are not edges into it.
        written_in |= {op.target: number for op in stage.ops}
    return tuple(facts)


def _player_facts(
    stage: Stage, shapes: dict[ValueId, jax.ShapeDtypeStruct], params: PlayerTrees
) -> tuple[PlayerFacts, ...]:
    facts: list[PlayerFacts] = []
    for player_op in stage.player_ops:
        count = parameter_count(params[player_op.name])
        source, target = shapes[player_op.source], shapes[player_op.target]
        facts.append(
            PlayerFacts(
                player_op.name,
                layer_label(player_op.module),
                source.shape,
                target.shape,
                count,
                cost_rule(player_op.module, source, target, count, feedback=True),
            )
        )
    return tuple(facts)
