"""The network as a graph: stages from the inputs down, the states they read, their feedback."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from gtddp_jax.network import INPUTS, StageFacts
from gtddp_lab.core.printing import printable_text
from gtddp_lab.report.series import MethodSeries, mean_over_seeds
from gtddp_lab.training.records import EpochRecord

StateShape: TypeAlias = tuple[int, ...]

ROW_HEIGHT = 48
"""Height of a stage in pixels."""

LANE_WIDTH = 11
"""Width of a shortcut's lane in pixels."""

COST_RULE_TEXTS = {
    "factored": "per-sample gradients stay products of two vectors; nothing is stored",
    "kept": "per-sample gradients are stored",
    "recomputed": "per-sample gradients are computed again, chunk by chunk",
}
"""Explanations of the cost rules."""


class FeedbackStrength(NamedTuple):
    """Feedback of a series in one stage.

    Attributes:
        series: The series.
        value: Ratio of feedback to open gain after the last epoch, mean over seeds.
        width: Width of its bar in per cent of the strongest stage.
        course: Its course over the epochs, as text.
    """

    series: MethodSeries
    value: float
    width: float
    course: str


class GraphNode(NamedTuple):
    """One row of the graph.

    Attributes:
        name: ``inputs``, or the number of the stage.
        players: Names of its players.
        shape: StateShape of the trunk's state after it, as text.
        facts: Everything known about it, as pairs (term, text).
        strengths: One entry for each series with feedback.
    """

    name: str
    players: list[str]
    shape: str
    facts: list[tuple[str, str]]
    strengths: list[FeedbackStrength]


class GraphEdge(NamedTuple):
    """A line of the rail: its SVG path in pixels, and whether it is a shortcut."""

    path: str
    shortcut: bool


class GameGraph(NamedTuple):
    """The game on one network.

    Attributes:
        title: Name of the network and, if there are several runs, of the runs that use it.
        summary: Numbers of stages, players and parameters.
        nodes: The rows, inputs first.
        edges: The lines of the rail.
        width: Width of the rail in pixels.
        height: Height of the rail in pixels.
        spine: Horizontal position of the stages on the rail, in pixels.
        series: The series with feedback.
        shortcuts: Number of states that bypass a stage.
        note: What cannot be shown; may be empty.
    """

    title: str
    summary: str
    nodes: list[GraphNode]
    edges: list[GraphEdge]
    width: int
    height: int
    spine: int
    series: list[MethodSeries]
    shortcuts: int
    note: str


def game_graphs(series: Sequence[MethodSeries]) -> list[GameGraph]:
    """Return one graph for each network; runs with the same network share one."""
    by_network: dict[tuple[StageFacts, ...], list[MethodSeries]] = {}
    for entry in series:
        if entry.run.stages is not None:
            by_network.setdefault(entry.run.stages, []).append(entry)
    return [_game_graph(stages, members) for stages, members in by_network.items()]


def _game_graph(stages: tuple[StageFacts, ...], members: list[MethodSeries]) -> GameGraph:
    with_feedback = [
        entry
        for entry in members
        if any(record.report.get("feedback_ratio") for record in entry.records)
    ]
    # Results and network.json may come from different versions of a network.
    shown = [entry for entry in with_feedback if _has_all_stages(entry, len(stages))]
    arcs, lanes = _graph_arcs(stages)
    spine = LANE_WIDTH * (lanes + 1)
    courses = {entry.key: _feedback_by_stage(entry, len(stages)) for entry in shown}
    strongest = max(
        (course[-1] for of_series in courses.values() for course in of_series), default=0.0
    )
    # The inputs are row 0, so stage t is row t + 1.
    nodes = [GraphNode("inputs", [], _shape_text([_input_shape(stages)]), [], [])]
    for number, stage in enumerate(stages):
        strengths = [
            _feedback_strength(entry, courses[entry.key][number], strongest) for entry in shown
        ]
        nodes.append(_stage_node(number, stage, strengths, shown))
    left_out = [entry.label for entry in with_feedback if entry not in shown]
    return GameGraph(
        title=_graph_title(members),
        summary=_size_text(stages),
        nodes=nodes,
        edges=[_arc_edge(arc, spine) for arc in arcs],
        width=spine + LANE_WIDTH,
        height=ROW_HEIGHT * len(nodes),
        spine=spine,
        series=shown,
        shortcuts=sum(arc.lane > 0 for arc in arcs),
        note=(
            f"The feedback of {', '.join(left_out)} does not match this network."
            if left_out
            else ""
        ),
    )


def _graph_title(members: Sequence[MethodSeries]) -> str:
    networks = dict.fromkeys(entry.run.experiment.network for entry in members)
    runs = dict.fromkeys(entry.run.short for entry in members if entry.run.short)
    return ", ".join(networks) + (f" ({', '.join(runs)})" if runs else "")


def _size_text(stages: Sequence[StageFacts]) -> str:
    players = sum(len(stage.players) for stage in stages)
    parameters = sum(player.parameters for stage in stages for player in stage.players)
    return f"{len(stages)} stages, {players} players, {parameters:,} parameters"


def _has_all_stages(series: MethodSeries, stages: int) -> bool:
    """Whether every epoch has a feedback ratio for every stage."""
    ratios = [record.report.get("feedback_ratio") for record in series.records]
    return all(isinstance(ratio, list) and len(ratio) == stages for ratio in ratios)


def _feedback_by_stage(series: MethodSeries, stages: int) -> list[list[float]]:
    """Course of the feedback ratio over the epochs, for each stage."""
    courses: list[list[float]] = []
    for number in range(stages):

        def ratio(record: EpochRecord, number: int = number) -> float:
            ratios = record.report["feedback_ratio"]
            assert isinstance(ratios, list), "checked by _has_all_stages"
            return ratios[number]

        curve = mean_over_seeds(series.records, ratio)
        assert curve is not None, "a series has at least one record"
        courses.append([value if np.isfinite(value) else 0.0 for value in curve.middle])
    return courses


def _feedback_strength(
    series: MethodSeries, course: list[float], strongest: float
) -> FeedbackStrength:
    shown = course if len(course) <= 3 else [course[0], course[len(course) // 2], course[-1]]
    return FeedbackStrength(
        series,
        course[-1],
        round(100 * course[-1] / strongest, 1) if strongest > 0 else 0.0,
        " → ".join(f"{value:.3g}" for value in shown),
    )


def _input_shape(stages: tuple[StageFacts, ...]) -> StateShape:
    return next(edge.shape for edge in stages[0].reads if edge.stage == INPUTS)


def _shape_text(shapes: Sequence[StateShape]) -> str:
    """Shapes without the batch, such as ``8×8×16``; the sign × prevents line breaks."""
    return ", ".join("×".join(map(str, shape[1:])) or "scalar" for shape in shapes)


def _stage_node(
    number: int,
    stage: StageFacts,
    strengths: list[FeedbackStrength],
    series: Sequence[MethodSeries],
) -> GraphNode:
    facts: list[tuple[str, str]] = []
    for player in stage.players:
        rule = printable_text(player.rule, 40)
        shapes = f"{_shape_text([player.input])} → {_shape_text([player.output])}"
        layer = printable_text(player.layer, 60)
        size = f"{player.parameters:,} parameters"
        facts.append((printable_text(player.name, 60), f"{layer}, {shapes}, {size}"))
        known = rule in COST_RULE_TEXTS
        facts.append(("cost rule", f"{rule}: {COST_RULE_TEXTS[rule]}" if known else rule))
    reads = [_read_text(edge.stage, edge.shape, number) for edge in stage.reads]
    facts.append(("reads", "; ".join(reads)))
    facts.append(("alive after", _shape_text(stage.live)))
    for strength in strengths:
        facts.append((f"feedback, {strength.series.label}", strength.course))
    for entry in series:
        weights = _sample_weight_text(entry, number)
        if weights:
            facts.append((f"sample weights, {entry.label}", weights))
    names = [printable_text(player.name, 60) for player in stage.players]
    return GraphNode(str(number), names, _shape_text(stage.live[:1]), facts, strengths)


def _read_text(writer: int, shape: StateShape, number: int) -> str:
    source = "the inputs" if writer == INPUTS else f"stage {writer}"
    return f"{_shape_text([shape])} of {source}{' (shortcut)' if writer < number - 1 else ''}"


def _sample_weight_text(series: MethodSeries, number: int) -> str:
    """Sample weights of the watched images in a stage after the last epoch, mean over seeds."""
    last = max(record.epoch for record in series.records)
    digests = [
        record.sample_weights["stages"]
        for record in series.records
        if record.epoch == last and record.sample_weights
    ]
    quantiles = [stages[number] for stages in digests if number < len(stages)]
    if not quantiles or not all(quantiles):
        return ""
    # The levels are 5, 25, 50, 75 and 95 %.
    low, _, middle, _, high = np.mean(quantiles, axis=0)
    return f"median {middle:.3g}, 90 % between {low:.3g} and {high:.3g}"


class _Arc(NamedTuple):
    """A connection from one row of the graph to a later one, in a lane; lane 0 is the spine."""

    start: int
    end: int
    lane: int


def _graph_arcs(stages: tuple[StageFacts, ...]) -> tuple[list[_Arc], int]:
    """The connections, and the number of lanes. The inputs are row 0.

    Shortcuts that overlap get different lanes; the shortest ones are nearest to the spine.
    """
    pairs = sorted(
        {
            (edge.stage + 1, number + 1)
            for number, stage in enumerate(stages)
            for edge in stage.reads
        },
        key=lambda pair: (pair[1] - pair[0], pair),
    )
    arcs: list[_Arc] = []
    for start, end in pairs:
        lane = 0
        if end > start + 1:
            taken = [arc.lane for arc in arcs if arc.lane and arc.start < end and start < arc.end]
            lane = next(number for number in range(1, len(arcs) + 2) if number not in taken)
        arcs.append(_Arc(start, end, lane))
    return arcs, max((arc.lane for arc in arcs), default=0)


def _arc_edge(arc: _Arc, spine: int) -> GraphEdge:
    top, bottom = (ROW_HEIGHT * row + ROW_HEIGHT // 2 for row in (arc.start, arc.end))
    if not arc.lane:
        return GraphEdge(f"M{spine} {top}V{bottom}", False)
    x = spine - LANE_WIDTH * arc.lane
    # Round corners, which must not exceed half a row.
    bend = min(ROW_HEIGHT // 2, LANE_WIDTH * arc.lane)
    return GraphEdge(
        f"M{spine} {top}Q{x} {top} {x} {top + bend}V{bottom - bend}Q{x} {bottom} {spine} {bottom}",
        True,
    )
