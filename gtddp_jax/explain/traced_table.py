"""The table of a model from `gt.from_flax`."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Batch, Tree
from gtddp_jax.curvature.base import Curvature
from gtddp_jax.explain.text_table import align_columns
from gtddp_jax.network.protocol import stage_indices
from gtddp_jax.network.sample_gradients.layer_descriptions import ConvLayer, DenseLayer, OtherLayer
from gtddp_jax.tracing.traced_model import TracedModel
from gtddp_jax.tracing.traced_network import TracedNetwork
from gtddp_jax.tracing.traced_pass import TracedPass

HEADER = ("stage", "player", "kind", "parameters", "rule", "note")


def traced_table(
    net: TracedNetwork,
    params: Tree | None = None,
    x: Batch | None = None,
    curvature: Curvature | None = None,
) -> str:
    """The players of each stage with their parameter counts, cost rules and notes.

    Args:
        net: the network.
        params: parameters of the model; by default the shapes of those that it was traced with.
        x: a batch of inputs, whose batch size decides the cost rules; by default the example.
        curvature: adds a column with what it uses for each player.
    """
    leaves = list(net.model.shapes) if params is None else net.model.parameter_leaves(params)
    if x is None:
        traced, x = net.example_trace, _example_shapes(net)
    else:
        traced = net.tracer.trace(leaves, net.model.state, net.model.random_keys({}), x)
    rules = _cost_rules(net, traced, leaves, x)
    # Notes are long, so they stay the last column.
    header = HEADER if curvature is None else (*HEADER[:-1], "curvature", HEADER[-1])
    rows: list[tuple[str, ...]] = [header]
    descriptions = {} if curvature is None else _describe_players(net, leaves, curvature)
    previous_stage = -1
    total = 0
    for player in traced.players:
        parameter_count = sum(math.prod(leaves[leaf].shape) for leaf in player.leaves)
        total += parameter_count
        # A reused player rules out the nonlinear rollout, so the table says so.
        notes = [player.note]
        if player.name in traced.schedule.reused_players:
            notes.append("used again later")
        rows.append(
            (
                str(player.stage_index) if player.stage_index != previous_stage else "",
                player.name,
                layer_kind_label(traced.layer_matches[player.name].layer),
                f"{parameter_count:,}",
                rules[player.name],
                *([] if curvature is None else [descriptions[player.name]]),
                "; ".join(note for note in notes if note),
            )
        )
        previous_stage = player.stage_index
    summary = f"{len(net.stages)} stages, {len(net.players)} players, {total:,} parameters"
    return "\n".join([summary, *align_columns(rows)])


def layer_kind_label(layer: DenseLayer | ConvLayer | OtherLayer) -> str:
    """`dense`, `conv`, or the operations that combine the parameters with data."""
    if isinstance(layer, OtherLayer):
        return layer.label
    return "dense" if isinstance(layer, DenseLayer) else "conv"


def _example_shapes(net: TracedNetwork) -> Batch:
    """The shapes of the inputs that the model was first traced with."""
    program = net.example_trace.batched.program
    shapes = [program.shapes[value] for value in program.groups["inputs"]]
    flat = [jax.ShapeDtypeStruct(shape.shape, shape.dtype) for shape in shapes]
    return jax.tree.unflatten(net.tracer.input_structure, flat)


def _cost_rules(
    net: TracedNetwork, traced: TracedModel, leaves: Sequence[Any], x: Batch
) -> dict[str, str]:
    """The cost rule of each player, with feedback on."""
    rules: dict[str, str] = {}

    def run(leaves: Any, state: Any, rngs: Any, x: Any) -> None:
        played = TracedPass(traced, leaves, state, rngs, x, SampleReductions(0), replayed=False)
        # Rules belong to uses with their adjoints, so the pass needs a backward pass, of zeros.
        played.propagate(jax.tree.map(jnp.zeros_like, played.outputs))
        rules.update({player.name: played.cost_rule(player) for player in traced.players})

    # Rules depend on shapes only, so the pass is traced and never computed.
    jax.eval_shape(run, leaves, net.model.state, net.model.random_keys({}), x)
    return rules


def _describe_players(
    net: TracedNetwork, leaves: Sequence[Any], curvature: Curvature
) -> dict[str, str]:
    """The curvature's description of each player."""
    # Shapes are enough for a description, so `leaves` may be jax.ShapeDtypeStruct.
    player_params = net.tracer.split_leaves(leaves)
    descriptions: dict[str, str] = {}
    for stage_index in stage_indices(net.stages):
        stage_params = {name: player_params[name] for name in stage_index.stage.players}
        descriptions |= curvature.describe(stage_params, stage_index)
    return descriptions
