"""The game as a table."""

from typing import TYPE_CHECKING, Any

import jax

from gtddp_jax.network.modes import FRESH, bind
from gtddp_jax.network.naming import layer_label
from gtddp_jax.network.program import Params
from gtddp_jax.network.table import aligned

if TYPE_CHECKING:
    from gtddp_jax.curvature import Curvature
    from gtddp_jax.network.network import Network

HEADER = ("stage", "player", "layer", "input", "output", "parameters", "rule", "live states after")


def explain(
    net: "Network",
    params: Params,
    x: jax.Array | jax.ShapeDtypeStruct,
    curvature: "Curvature | None" = None,
) -> str:
    """Stage by stage: players, shapes, cost rule at this batch size, live states, sizes."""
    from gtddp_jax.game.backward import places
    from gtddp_jax.players import parameter_count, rule

    net.check_params(params)

    def values(params: Any, x: jax.Array) -> list[dict[int, jax.Array]]:
        states, runs = (x,), []
        for stage in bind(net.stages, FRESH):
            runs.append(stage.run(params, states))
            states = tuple(runs[-1][v] for v in stage.outputs)
        return runs

    shapes = jax.eval_shape(values, params, x)
    header = HEADER if curvature is None else (*HEADER, "curvature")
    rows: list[tuple[str, ...]] = [header]
    notes: dict[str, str] = {}
    if curvature is not None:
        for place in places(net.stages):
            own = {name: params[name] for name in place.stage.players}
            notes |= curvature.describe(own, place)
    for t, (stage, run) in enumerate(zip(net.stages, shapes, strict=True)):
        live = " ".join(str(run[v].shape) for v in stage.outputs)
        for i, act in enumerate(stage.acts):
            count = parameter_count(params[act.name])
            chosen = rule(act.module, run[act.source], run[act.target], count, feedback=True)
            rows.append(
                (
                    str(t) if i == 0 else "",
                    act.name,
                    layer_label(act.module),
                    str(run[act.source].shape),
                    str(run[act.target].shape),
                    f"{count:,}",
                    chosen,
                    live if i == 0 else "",
                    *([notes[act.name]] if curvature is not None else []),
                )
            )
    total = parameter_count(params)
    summary = f"{len(net.stages)} stages, {len(net.players)} players, {total:,} parameters"
    return "\n".join([summary, *aligned(rows)])
