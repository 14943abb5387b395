"""The table of a `gt.Network`."""

from gtddp_jax.core.types import InputsLike, PlayerTrees
from gtddp_jax.curvature.base import Curvature
from gtddp_jax.explain.text_table import align_columns
from gtddp_jax.network.facts import stage_facts
from gtddp_jax.network.network import Network
from gtddp_jax.network.protocol import stage_indices

HEADER = ("stage", "player", "layer", "input", "output", "parameters", "rule", "live states after")


def network_table(
    net: Network, params: PlayerTrees, x: InputsLike, curvature: Curvature | None = None
) -> str:
    """The players of each stage with their shapes, parameter counts and cost rules.

    Args:
        net: the network.
        params: its parameters.
        x: an input batch [B, ...]; its batch size decides the cost rules.
        curvature: adds a column with what it uses for each player.
    """
    stages = stage_facts(net, params, x)
    header = HEADER if curvature is None else (*HEADER, "curvature")
    rows: list[tuple[str, ...]] = [header]
    # A curvature is asked once per stage, since cooperating players may share what it keeps.
    notes = {} if curvature is None else _describe_players(net, params, curvature)
    for number, stage in enumerate(stages):
        live_shapes = " ".join(map(str, stage.live))
        for position, player in enumerate(stage.players):
            # What holds for the whole stage is written in the row of its first player only.
            rows.append(
                (
                    str(number) if position == 0 else "",
                    player.name,
                    player.layer,
                    str(player.input),
                    str(player.output),
                    f"{player.parameters:,}",
                    player.rule,
                    live_shapes if position == 0 else "",
                    *([] if curvature is None else [notes[player.name]]),
                )
            )
    players = [player for stage in stages for player in stage.players]
    total = sum(player.parameters for player in players)
    summary = f"{len(stages)} stages, {len(players)} players, {total:,} parameters"
    return "\n".join([summary, *align_columns(rows)])


def _describe_players(net: Network, params: PlayerTrees, curvature: Curvature) -> dict[str, str]:
    """The curvature's description of each player."""
    notes: dict[str, str] = {}
    for stage_index in stage_indices(net.stages):
        stage_params = {name: params[name] for name in stage_index.stage.players}
        notes |= curvature.describe(stage_params, stage_index)
    return notes
