"""The game of a Flax model as a table."""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import Samples
from gtddp_jax.flax_models.gradients import joint_rule, use_rule
from gtddp_jax.flax_models.grouping import Member
from gtddp_jax.flax_models.kinds import UseSums
from gtddp_jax.flax_models.passes import FlaxPass
from gtddp_jax.flax_models.reading import Reading
from gtddp_jax.game.backward import places
from gtddp_jax.network.table import aligned
from gtddp_jax.players.layers import ConvLayer, DenseLayer, OtherLayer

if TYPE_CHECKING:
    from gtddp_jax.curvature import Curvature
    from gtddp_jax.flax_models.network import FlaxNetwork

HEADER = ("stage", "player", "kind", "parameters", "rule", "note")


def kind_of(layer: DenseLayer | ConvLayer | OtherLayer) -> str:
    """`dense`, `conv`, or the operations in which the parameters meet data."""
    if isinstance(layer, OtherLayer):
        return layer.label
    return "dense" if isinstance(layer, DenseLayer) else "conv"


def rules(run: FlaxPass, member: Member) -> str:
    """The cost rules of a player with feedback on, those of its largest parameters first."""
    if not member.uses:
        return "-"
    sums: list[UseSums] = run.sums(member)
    if run.seen(member, sums) is None:
        count = sum(run.params[i].size for i in member.leaves)
        return joint_rule(sums, count, feedback=True)
    largest = max(sums, key=lambda use: use.site.values[0].size)
    return use_rule(largest, feedback=True)


def _rules(net: "FlaxNetwork", reading: Reading, leaves: Any, state: Any, x: Any) -> dict[str, str]:
    found: dict[str, str] = {}

    def run(leaves: Any, state: Any, rngs: Any, x: Any) -> None:
        played = FlaxPass(reading, leaves, state, rngs, x, Samples(0), replayed=False)
        played.backward(jax.tree.map(jnp.zeros_like, played.outputs))
        found.update({m.name: rules(played, m) for m in reading.members})

    jax.eval_shape(run, leaves, state, net.model.keys({}), x)
    return found


def _described(net: "FlaxNetwork", leaves: Any, curvature: "Curvature") -> dict[str, str]:
    """What each player gets from a curvature."""
    found: dict[str, str] = {}
    for place in places(net.stages):
        own = {
            m.name: {k: leaves[i] for k, i in zip(m.keys, m.leaves, strict=True)}
            for m in net.example.members
            if m.level == place.index
        }
        found |= curvature.describe(own, place)
    return found


def explain(net: "FlaxNetwork", params: Any, x: Any, curvature: "Curvature | None") -> str:
    """Stage by stage: players, what they are, their cost rule at this batch size, why."""
    leaves = list(net.model.shapes) if params is None else net.model.leaves(params)
    if x is None:
        reading = net.example
        shapes = [reading.traced.program.shapes[v] for v in reading.traced.program.groups["inputs"]]
        flat = [jax.ShapeDtypeStruct(s.shape, s.dtype) for s in shapes]
        x = jax.tree.unflatten(net.input_structure, flat)
    else:
        reading = net.reading(leaves, net.model.state, net.model.keys({}), x)
    found = _rules(net, reading, leaves, net.model.state, x)
    header = HEADER if curvature is None else (*HEADER[:-1], "curvature", HEADER[-1])
    rows: list[tuple[str, ...]] = [header]
    notes = {} if curvature is None else _described(net, leaves, curvature)
    last = -1
    total = 0
    for member in reading.members:
        count = sum(math.prod(leaves[i].shape) for i in member.leaves)
        total += count
        note = member.note
        if member.name in reading.plan.late:
            note = "; ".join(part for part in (note, "used again later") if part)
        described = [notes[member.name]] if curvature is not None else []
        rows.append(
            (
                str(member.level) if member.level != last else "",
                member.name,
                kind_of(reading.forms[member.name].layer),
                f"{count:,}",
                found[member.name],
                *described,
                note,
            )
        )
        last = member.level
    summary = f"{len(net.stages)} stages, {len(net.players)} players, {total:,} parameters"
    return "\n".join([summary, *aligned(rows)])
