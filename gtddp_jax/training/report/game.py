"""The game graph: stages from the inputs down, what each reads, and how strong its feedback is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gtddp_jax.network.facts import INPUTS, Shape, StageFacts
from gtddp_jax.training.report.series import Series, over_seeds
from gtddp_jax.training.report.sources import plain

ROW = 48
"""Height of a stage in pixels."""

LANE = 11
"""Width of a shortcut's lane in pixels."""

RULES = {
    "factored": "per-sample gradients stay products of two vectors: nothing is held",
    "kept": "per-sample gradients are held",
    "recomputed": "per-sample gradients are computed again, chunk by chunk",
}
"""What the cost rules mean, for people."""


class Strength(NamedTuple):
    """A series' feedback in one stage.

    Attributes:
        series: The series.
        value: Feedback against open gain after the last epoch, mean over seeds.
        width: In per cent of the strongest stage.
        course: All epochs, for people.
    """

    series: Series
    value: float
    width: float
    course: str


class Node(NamedTuple):
    """One line of the graph.

    Attributes:
        name: ``inputs``, or the stage's number.
        players: Their names.
        shape: What is alive after it, for people.
        facts: All there is to say, pairs of a word and a text.
        strengths: One for each series that has feedback.
    """

    name: str
    players: list[str]
    shape: str
    facts: list[tuple[str, str]]
    strengths: list[Strength]


class Edge(NamedTuple):
    """A line of the rail: its SVG path in pixels, and whether it is a shortcut."""

    path: str
    shortcut: bool


class Graph(NamedTuple):
    """The game of one network.

    Attributes:
        title: The network, and of several runs those that have it.
        summary: How large it is.
        nodes: Inputs first.
        edges: Of the rail.
        width: The rail's width in pixels.
        height: The rail's height in pixels.
        spine: Where on the rail the stages are, in pixels.
        series: The series with feedback.
        shortcuts: How many states go past a stage.
        note: What cannot be shown; empty if nothing.
    """

    title: str
    summary: str
    nodes: list[Node]
    edges: list[Edge]
    width: int
    height: int
    spine: int
    series: list[Series]
    shortcuts: int
    note: str


def graphs(series: Sequence[Series]) -> list[Graph]:
    """One graph for each network; runs of the same network share one."""
    shared: dict[tuple[StageFacts, ...], list[Series]] = {}
    for one in series:
        if one.run.stages is not None:
            shared.setdefault(one.run.stages, []).append(one)
    return [_graph(stages, members) for stages, members in shared.items()]


def _graph(stages: tuple[StageFacts, ...], members: list[Series]) -> Graph:
    with_feedback = [
        one for one in members if any(r.report.get("feedback_ratio") for r in one.records)
    ]
    told = [one for one in with_feedback if _fits(one, len(stages))]
    edges, lanes = _edges(stages)
    spine = LANE * (lanes + 1)
    courses = {one.key: _courses(one, len(stages)) for one in told}
    strongest = max((c[-1] for found in courses.values() for c in found), default=0.0)
    nodes = [Node("inputs", [], _shapes([_inputs(stages)]), [], [])]
    for t, stage in enumerate(stages):
        strengths = [_strength(one, courses[one.key][t], strongest) for one in told]
        nodes.append(_node(t, stage, strengths, told))
    runs = list(dict.fromkeys(one.run.short for one in members if one.run.short))
    networks = list(dict.fromkeys(one.run.experiment.network for one in members))
    players = sum(len(stage.players) for stage in stages)
    parameters = sum(player.parameters for stage in stages for player in stage.players)
    left_out = [one.label for one in with_feedback if one not in told]
    return Graph(
        title=", ".join(networks) + (f" ({', '.join(runs)})" if runs else ""),
        summary=f"{len(stages)} stages, {players} players, {parameters:,} parameters",
        nodes=nodes,
        edges=[_drawn(edge, spine) for edge in edges],
        width=spine + LANE,
        height=ROW * len(nodes),
        spine=spine,
        series=told,
        shortcuts=sum(edge.lane > 0 for edge in edges),
        note=f"Feedback of {', '.join(left_out)} does not fit this network." if left_out else "",
    )


def _fits(series: Series, stages: int) -> bool:
    """Whether every epoch has a feedback for every stage."""
    ratios = [record.report.get("feedback_ratio") for record in series.records]
    return all(isinstance(each, list) and len(each) == stages for each in ratios)


def _courses(series: Series, stages: int) -> list[list[float]]:
    """Feedback over the epochs, for each stage."""
    found: list[list[float]] = []
    for t in range(stages):
        curve = over_seeds(series.records, lambda record, t=t: record.report["feedback_ratio"][t])
        assert curve is not None  # a series has an epoch
        found.append([value if np.isfinite(value) else 0.0 for value in curve.middle])
    return found


def _strength(series: Series, course: list[float], strongest: float) -> Strength:
    shown = course if len(course) <= 3 else [course[0], course[len(course) // 2], course[-1]]
    return Strength(
        series,
        course[-1],
        round(100 * course[-1] / strongest, 1) if strongest > 0 else 0.0,
        " → ".join(f"{value:.3g}" for value in shown),
    )


def _inputs(stages: tuple[StageFacts, ...]) -> Shape:
    return next(edge.shape for edge in stages[0].reads if edge.stage == INPUTS)


def _shapes(shapes: Sequence[Shape]) -> str:
    """Shapes without the batch, ``8×8×16``; a product sign, so that nothing breaks a line."""
    return ", ".join("×".join(map(str, shape[1:])) or "scalar" for shape in shapes)


def _node(t: int, stage: StageFacts, strengths: list[Strength], series: Sequence[Series]) -> Node:
    facts: list[tuple[str, str]] = []
    for player in stage.players:
        rule = plain(player.rule, 40)
        facts.append(
            (
                plain(player.name, 60),
                f"{plain(player.layer, 60)}, {_shapes([player.input])} → "
                f"{_shapes([player.output])}, {player.parameters:,} parameters",
            )
        )
        facts.append(("cost rule", f"{rule}: {RULES[rule]}" if rule in RULES else rule))
    facts.append(("reads", "; ".join(_read(edge.stage, edge.shape, t) for edge in stage.reads)))
    facts.append(("alive after", _shapes(stage.live)))
    for strength in strengths:
        facts.append((f"feedback, {strength.series.label}", strength.course))
    for one in series:
        weights = _weights(one, t)
        if weights:
            facts.append((f"weights, {one.label}", weights))
    names = [plain(player.name, 60) for player in stage.players]
    return Node(str(t), names, _shapes(stage.live[:1]), facts, strengths)


def _read(writer: int, shape: Shape, t: int) -> str:
    source = "the inputs" if writer == INPUTS else f"stage {writer}"
    return f"{_shapes([shape])} of {source}{' (shortcut)' if writer < t - 1 else ''}"


def _weights(series: Series, t: int) -> str:
    """Weights of the watched images in a stage after the last epoch, mean over seeds."""
    last = max(record.epoch for record in series.records)
    found = [
        record.weights["stages"][t]
        for record in series.records
        if record.epoch == last and record.weights and t < len(record.weights["stages"])
    ]
    if not found or not all(found):
        return ""
    low, _, middle, _, high = np.mean(found, axis=0)
    return f"median {middle:.3g}, nine in ten from {low:.3g} to {high:.3g}"


class _Arc(NamedTuple):
    """From a line of the graph to a later one, in a lane; lane 0 is the spine."""

    start: int
    end: int
    lane: int


def _edges(stages: tuple[StageFacts, ...]) -> tuple[list[_Arc], int]:
    """Who reads from whom; shortcuts in as few lanes as keep them apart. Inputs are line 0."""
    pairs = sorted(
        {(edge.stage + 1, t + 1) for t, stage in enumerate(stages) for edge in stage.reads},
        key=lambda pair: (pair[1] - pair[0], pair),
    )
    arcs: list[_Arc] = []
    for start, end in pairs:
        lane = 0
        if end > start + 1:
            crossing = [a.lane for a in arcs if a.lane and a.start < end and start < a.end]
            lane = next(n for n in range(1, len(arcs) + 2) if n not in crossing)
        arcs.append(_Arc(start, end, lane))
    return arcs, max((arc.lane for arc in arcs), default=0)


def _drawn(arc: _Arc, spine: int) -> Edge:
    top, bottom = (ROW * line + ROW // 2 for line in (arc.start, arc.end))
    if not arc.lane:
        return Edge(f"M{spine} {top}V{bottom}", False)
    x, bend = spine - LANE * arc.lane, min(ROW // 2, LANE * arc.lane)
    return Edge(
        f"M{spine} {top}Q{x} {top} {x} {top + bend}V{bottom - bend}Q{x} {bottom} {spine} {bottom}",
        True,
    )
