"""What is known of a network's game without running it: stages, players, shapes, rules, edges."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from gtddp_jax.core.types import InputsLike
from gtddp_jax.network.modes import FRESH, bind
from gtddp_jax.network.naming import layer_label
from gtddp_jax.network.program import Params, Stage, Value

if TYPE_CHECKING:
    from gtddp_jax.network.network import Network

INPUTS = -1
"""Where the inputs of the network come from, as if they were a stage's."""

Shape = tuple[int, ...]


class PlayerFacts(NamedTuple):
    """One player.

    Attributes:
        name: key into the parameters.
        layer: kind of its module.
        input: shape of what it reads, batch included.
        output: shape of what it writes, batch included.
        parameters: how many it has.
        rule: how its sums over samples are computed at this batch size, with feedback on.
    """

    name: str
    layer: str
    input: Shape
    output: Shape
    parameters: int
    rule: str


class EdgeFacts(NamedTuple):
    """A state that a stage reads: the stage that has written it (`INPUTS`: none), and its shape."""

    stage: int
    shape: Shape


class StageFacts(NamedTuple):
    """One stage.

    Attributes:
        players: those who act at once.
        reads: what it reads; what comes from before the stage before it is a shortcut.
        live: shapes of the states alive after it.
    """

    players: tuple[PlayerFacts, ...]
    reads: tuple[EdgeFacts, ...]
    live: tuple[Shape, ...]


def facts(net: "Network", params: Params, x: InputsLike) -> tuple[StageFacts, ...]:
    """Describes the game at a batch's shape; nothing is computed.

    Args:
        net: the network.
        params: its parameters.
        x: an input batch [B, ...]; its batch size decides the rules.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> net = gt.Network([gt.Residual([nn.Dense(3), nn.relu, nn.Dense(3)]), nn.Dense(2)])
        >>> x = jnp.ones((8, 3))
        >>> [stage.reads for stage in facts(net, net.init(jax.random.key(0), x), x)][1]
        (EdgeFacts(stage=0, shape=(8, 3)), EdgeFacts(stage=-1, shape=(8, 3)))
    """
    net.check_params(params)

    def values(params: Any, x: jax.Array) -> list[dict[Value, jax.Array]]:
        states, runs = (x,), []
        for stage in bind(net.stages, FRESH):
            runs.append(stage.run(params, states))
            states = tuple(runs[-1][v] for v in stage.outputs)
        return runs

    shapes = jax.eval_shape(values, params, x)
    written = dict.fromkeys(net.stages[0].inputs, INPUTS)
    found: list[StageFacts] = []
    for t, (stage, run) in enumerate(zip(net.stages, shapes, strict=True)):
        reads = dict.fromkeys(v for op in stage.ops for v in op.sources if v in written)
        found.append(
            StageFacts(
                _players(stage, run, params),
                tuple(EdgeFacts(written[v], run[v].shape) for v in reads),
                tuple(run[v].shape for v in stage.outputs),
            )
        )
        written |= {op.target: t for op in stage.ops}
    return tuple(found)


def _players(stage: Stage, run: dict[Value, Any], params: Params) -> tuple[PlayerFacts, ...]:
    from gtddp_jax.players import parameter_count, rule

    players: list[PlayerFacts] = []
    for act in stage.acts:
        count = parameter_count(params[act.name])
        players.append(
            PlayerFacts(
                act.name,
                layer_label(act.module),
                run[act.source].shape,
                run[act.target].shape,
                count,
                rule(act.module, run[act.source], run[act.target], count, feedback=True),
            )
        )
    return tuple(players)
