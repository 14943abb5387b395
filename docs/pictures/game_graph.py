"""Draws game_graph_*.png: stages, players and live states, read from a real `gt.Network`.

python docs/pictures/game_graph.py     (needs matplotlib)
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import gtddp_jax as gt
from gtddp_jax.network import AddOp, FunctionOp, PlayerOp

TRUNK, COMPANION, GREY, STAGE = "#EAF3FA", "#FFF3E6", "#555555", "#F4F4F4"
WIDE, HIGH = 3.0, 1.05
"""Distance of two stages, and of two lanes."""
SPLIT = 0.5
"""From a stage's left end to the place where a shortcut leaves the trunk."""


def shortcut(at: int) -> list[Any]:
    """A residual block with a convolution on its shortcut, placed beside stage `at` of its body."""
    body = [nn.Conv(16, (3, 3), strides=2), nn.relu, nn.Conv(16, (3, 3))]
    block = gt.Residual(body, shortcut=nn.Conv(16, (1, 1), strides=2), at=at)
    return [nn.Conv(8, (3, 3)), nn.relu, block]


def identity() -> list[Any]:
    """A residual block whose shortcut has no parameters."""
    body = [nn.Conv(8, (3, 3)), nn.relu, nn.Conv(8, (3, 3))]
    return [nn.Conv(8, (3, 3)), nn.relu, gt.Residual(body), nn.relu]


def cooperative() -> list[Any]:
    """The block of the paper's Fig. 7a between two layers."""
    block = gt.Cooperative([nn.Dense(12), nn.Dense(12)])
    return [nn.Dense(12), nn.tanh, block, nn.tanh, nn.Dense(3)]


PICTURES: dict[str, tuple[Callable[[], list[list[Any]]], tuple[int, ...], list[str]]] = {
    "identity": (lambda: [identity()], (8, 8, 1), [""]),
    "shortcut": (
        lambda: [shortcut(0), shortcut(1)],
        (8, 8, 1),
        ["gt.Residual(..., at=0)", "gt.Residual(..., at=1)"],
    ),
    "cooperative": (lambda: [cooperative()], (4,), [""]),
}
"""What is drawn: networks under each other, the shape of one input, titles."""


@dataclasses.dataclass
class Graph:
    """The layout of one network.

    Attributes:
        net: the network.
        shapes: of every value, without the samples.
        uses: the operations that read a value, with their stages, in order.
        lanes: of the operations, by target: 0 for the trunk, below it 1, 2, ...
        origin: of the values: the lane in which they are written.
    """

    net: gt.Network
    shapes: dict[int, tuple[int, ...]]
    uses: dict[int, list[tuple[int, Any]]]
    lanes: dict[int, int]
    origin: dict[int, int]


def graph(net: gt.Network, shape: tuple[int, ...]) -> Graph:
    """Lay out the stages: a value's first reader stays in its lane, further ones move below."""
    x = jnp.zeros((1, *shape))

    def values(x: jax.Array) -> dict[int, jax.Array]:
        params = net.init(jax.random.key(0), x)
        found: dict[int, jax.Array] = {}
        states: tuple[jax.Array, ...] = (x,)
        for stage in net.stages:
            found |= stage.run(params, states)
            states = tuple(found[v] for v in stage.outputs)
        return found

    shapes = {v: s.shape[1:] for v, s in jax.eval_shape(values, x).items()}
    uses: dict[int, list[tuple[int, Any]]] = {v: [] for v in shapes}
    for t, stage in enumerate(net.stages):
        for op in stage.ops:
            for v in op.sources:
                uses[v].append((t, op))
    origin = {net.stages[0].inputs[0]: 0}
    lanes: dict[int, int] = {}
    for stage in net.stages:
        for op in stage.ops:
            lanes[op.target] = min(lane_of(uses, lanes, origin, v, op) for v in op.sources)
            origin[op.target] = lanes[op.target]
    return Graph(net, shapes, uses, lanes, origin)


def lane_of(uses: Any, lanes: dict[int, int], origin: dict[int, int], v: int, op: Any) -> int:
    """The lane in which `op` reads the value v."""
    readers = [reader for _, reader in uses[v]]
    return origin[v] + readers.index(op)


def crossing(g: Graph, v: int, t: int) -> int:
    """The lane of the value v between stage t and stage t + 1."""
    later = [op for at, op in g.uses[v] if at > t]
    return lane_of(g.uses, g.lanes, g.origin, v, later[0]) if later else g.origin[v]


def arrow(axes: Axes, points: list[tuple[float, float]], head: bool = True) -> None:
    """A line through points; the last segment may have an arrow head."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs[:-1] if head else xs, ys[:-1] if head else ys, color=GREY, linewidth=1.3)
    if head:
        style: dict[str, Any] = {
            "arrowstyle": "-|>",
            "mutation_scale": 11,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.add_patch(FancyArrowPatch(points[-2], points[-1], color=GREY, lw=1.3, **style))


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.15) -> None:
    """A player."""
    low = (x - width / 2, y - 0.27)
    style: dict[str, Any] = {"boxstyle": "round,pad=0.04", "edgecolor": GREY, "facecolor": colour}
    axes.add_patch(FancyBboxPatch(low, width, 0.54, zorder=3, **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=4)


def below(lane: int) -> float:
    """The height of a lane."""
    return -lane * HIGH


def draw_stage(axes: Axes, g: Graph, t: int, depth: int) -> None:
    """The players of one stage, the functions after them, and the states that continue."""
    stage, x = g.net.stages[t], t * WIDE
    left, right = x - WIDE / 2, x + WIDE / 2
    low = (x - WIDE / 2 + 0.42, below(depth) - 0.5)
    shade = FancyBboxPatch(
        low, WIDE - 0.84, depth * HIGH + 0.95, boxstyle="round,pad=0.05", lw=0, fc=STAGE, zorder=0
    )
    axes.add_patch(shade)
    axes.text(x, 0.56, f"stage {t}", ha="center", fontsize=9, color=GREY)
    at: dict[int, float] = dict.fromkeys(stage.inputs, left)  # how far each value's line is drawn
    lane = {v: crossing(g, v, t - 1) for v in stage.inputs}
    acts = [op for op in stage.ops if isinstance(op, PlayerOp)]
    merged = any(isinstance(op, AddOp) for op in stage.ops)
    centre = x - 0.2 if merged else x
    for op in stage.ops:
        y = below(g.lanes[op.target])
        if isinstance(op, PlayerOp):
            v = op.source
            bend = left + SPLIT
            arrow(axes, [(at[v], below(lane[v])), (bend, below(lane[v])), (bend, y),
                         (centre - 0.62, y)])  # fmt: skip
            after = [
                o.label for o in stage.ops if isinstance(o, FunctionOp) and o.source == op.target
            ]
            label = "\n".join([op.name, *after])
            box(axes, centre, y, label, TRUNK if op is acts[0] else COMPANION)
            at[op.target] = centre + 0.62
        elif isinstance(op, AddOp):
            plus = x + 0.75
            for v in op.sources:
                h = below(crossing(g, v, t - 1) if v in stage.inputs else g.origin[v])
                arrow(axes, [(at[v], h), (plus, h)], head=False)
                arrow(axes, [(plus, h), (plus, y)], head=False)
            axes.text(plus, y, "+", ha="center", va="center", fontsize=11, zorder=4,
                      bbox={"boxstyle": "circle,pad=0.12", "fc": "white", "ec": GREY})  # fmt: skip
            after = [
                o.label for o in stage.ops if isinstance(o, FunctionOp) and o.source == op.target
            ]
            axes.text(plus, y + 0.27, "\n".join(after), ha="center", fontsize=8.5)
            at[op.target] = plus + 0.2
        else:
            at[op.target] = at[op.source]
        lane[op.target] = g.lanes[op.target]
    for v in stage.outputs:
        y, start = below(crossing(g, v, t)), at[v]
        bend = left + SPLIT
        if v in stage.inputs:
            arrow(axes, [(start, below(lane[v])), (bend, below(lane[v])), (bend, y), (right, y)],
                  head=False)  # fmt: skip
        else:
            arrow(axes, [(start, y), (right, y)], head=False)
        shape = "×".join(map(str, g.shapes[v]))
        middle = right if t + 1 < len(g.net.stages) else right - 0.14
        axes.text(middle, y + 0.09, shape, ha="center", fontsize=7.5, color=GREY)


def draw_network(axes: Axes, layers: list[Any], shape: tuple[int, ...], title: str) -> None:
    """One network, its stages side by side."""
    g = graph(gt.Network(layers), shape)
    last = len(g.net.stages)
    depth = max(crossing(g, v, t) for t, s in enumerate(g.net.stages) for v in s.outputs)
    depth = max(depth, *g.lanes.values())
    left, right = -WIDE / 2, (last - 1) * WIDE + WIDE / 2
    axes.text(left - 0.12, 0, "inputs", ha="right", va="center", fontsize=9)
    axes.text(left + 0.16, 0.09, "×".join(map(str, shape)), ha="center", fontsize=7.5, color=GREY)
    for t in range(last):
        draw_stage(axes, g, t, depth)
    axes.text(right + 0.12, 0, "outputs", va="center", fontsize=9)
    axes.set(xlim=(left - 1.0, right + 1.1), ylim=(below(depth) - 0.62, 0.85), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.axis("off")


def main() -> None:
    """Draws all pictures beside this script."""
    here = Path(__file__)
    for name, (networks, shape, titles) in PICTURES.items():
        layers = networks()
        figure = Figure(figsize=(8.2, 1.95 * len(layers)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(layers), 1, squeeze=False)[:, 0]
        for axes, network, title in zip(panels, layers, titles, strict=True):
            draw_network(axes, network, shape, title)
        figure.savefig(here.with_name(f"{here.stem}_{name}.png"))


if __name__ == "__main__":
    main()
