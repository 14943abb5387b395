"""The game as a table."""

from typing import TYPE_CHECKING

from gtddp_jax.core.types import InputsLike
from gtddp_jax.network.facts import facts
from gtddp_jax.network.program import Params
from gtddp_jax.network.table import aligned

if TYPE_CHECKING:
    from gtddp_jax.curvature import Curvature
    from gtddp_jax.network.network import Network

HEADER = ("stage", "player", "layer", "input", "output", "parameters", "rule", "live states after")


def explain(
    net: "Network",
    params: Params,
    x: InputsLike,
    curvature: "Curvature | None" = None,
) -> str:
    """Stage by stage: players, shapes, cost rule at this batch size, live states, sizes."""
    stages = facts(net, params, x)
    header = HEADER if curvature is None else (*HEADER, "curvature")
    rows: list[tuple[str, ...]] = [header]
    notes = {} if curvature is None else _described(net, params, curvature)
    for t, stage in enumerate(stages):
        live = " ".join(map(str, stage.live))
        for i, player in enumerate(stage.players):
            rows.append(
                (
                    str(t) if i == 0 else "",
                    player.name,
                    player.layer,
                    str(player.input),
                    str(player.output),
                    f"{player.parameters:,}",
                    player.rule,
                    live if i == 0 else "",
                    *([] if curvature is None else [notes[player.name]]),
                )
            )
    players = [player for stage in stages for player in stage.players]
    total = sum(player.parameters for player in players)
    summary = f"{len(stages)} stages, {len(players)} players, {total:,} parameters"
    return "\n".join([summary, *aligned(rows)])


def _described(net: "Network", params: Params, curvature: "Curvature") -> dict[str, str]:
    """What each player gets from a curvature."""
    from gtddp_jax.game.backward import places

    notes: dict[str, str] = {}
    for place in places(net.stages):
        own = {name: params[name] for name in place.stage.players}
        notes |= curvature.describe(own, place)
    return notes
