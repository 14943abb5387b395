"""The table of a `gt.Network`."""

from gtddp_jax.core.types import InputsLike, PlayerTrees
from gtddp_jax.curvature.base import Curvature
from gtddp_jax.explain.text_table import align_columns
from gtddp_jax.network.facts import stage_facts
from gtddp_jax.network.naming import layer_label
from gtddp_jax.network.network import Network
from gtddp_jax.network.protocol import stage_indices
from gtddp_jax.network.sample_gradients import parameter_count

HEADER = ("stage", "player", "layer", "input", "output", "parameters", "rule", "live states after")
HEADER_WITHOUT_SHAPES = ("stage", "player", "layer", "parameters")


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


def layer_table(net: Network, params: PlayerTrees | None = None) -> str:
    """The players of each stage with their layers, which are known without any shapes.

    Args:
        net: the network.
        params: its parameters, to count them; None if they are not known either.
    """
    header = ("stage", "player", "layer") if params is None else HEADER_WITHOUT_SHAPES
    rows: list[tuple[str, ...]] = [header]
    counts = {} if params is None else {name: parameter_count(params[name]) for name in net.players}
    for number, stage in enumerate(net.stages):
        for position, player_op in enumerate(stage.player_ops):
            count = [f"{counts[player_op.name]:,}"] if counts else []
            label = str(number) if position == 0 else ""
            rows.append((label, player_op.name, layer_label(player_op.module), *count))
    total = f", {sum(counts.values()):,} parameters" if counts else ""
    summary = f"{len(net.stages)} stages, {len(net.players)} players{total}"
    advice = "For shapes and cost rules: net.explain(params, x), or first net.init(key, x)."
    return "\n".join([summary, *align_columns(rows), advice])


def _describe_players(net: Network, params: PlayerTrees, curvature: Curvature) -> dict[str, str]:
    """The curvature's description of each player."""
    notes: dict[str, str] = {}
    for stage_index in stage_indices(net.stages):
        stage_params = {name: params[name] for name in stage_index.stage.players}
        notes |= curvature.describe(stage_params, stage_index)
    return notes
