"""Which operation runs in which stage, and which values are alive in between (paper Eq. 7, 26).

| operation                                    | when it runs                                    |
|----------------------------------------------|-------------------------------------------------|
| depends on no player                         | once, before the first stage                    |
| writes activations                           | in the stage of the last player it depends on   |
| writes a value of parameters or of the batch | in every stage that reads the value, once more  |

The last kind is recomputed because its value changes with the parameters or the samples, yet is no
state of the dynamics: only activations are states.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gtddp_jax.tracing.grouping import PlayerGroup
from gtddp_jax.tracing.parameter_uses import BatchedProgram, ParameterUse
from gtddp_jax.tracing.player_dependencies import player_dependencies
from gtddp_jax.tracing.traced_program import TracedEquation, ValueId, evaluate_equation

BEFORE_FIRST_STAGE = -1


@dataclasses.dataclass(frozen=True)
class StageSchedule:
    """The equations of a program by stage; equations are given by their positions.

    Attributes:
        fixed_equations: the equations that no player influences.
        stage_equations: the equations of each stage.
        producers: for each value of parameters or of the batch, the equation that computes it.
        live_values: for each stage the activations alive before it; one entry more, for the
            outputs.
        reused_players: players whose parameters are used again after the stage in which they act.
    """

    fixed_equations: tuple[int, ...]
    stage_equations: tuple[tuple[int, ...], ...]
    producers: dict[ValueId, int]
    live_values: tuple[tuple[ValueId, ...], ...]
    reused_players: tuple[str, ...]


def schedule_stages(
    batched: BatchedProgram,
    uses: Sequence[ParameterUse],
    source_leaves: Sequence[frozenset[int]],
    players: Sequence[PlayerGroup],
) -> StageSchedule:
    """Distributes the equations of a program over the stages.

    Args:
        batched: the model.
        uses: its uses of parameters.
        source_leaves: for each value, the parameters that it is computed from.
        players: the players.
    """
    program = batched.program
    player_of_use = {use: player for player in players for use in player.uses}
    acting = {use.equation_index: player_of_use[i] for i, use in enumerate(uses)}
    numbers = {player.name: number for number, player in enumerate(players)}
    dependencies = player_dependencies(
        batched, uses, [numbers[player_of_use[i].name] for i in range(len(uses))]
    )
    # The stage in which each value is written; inputs and parameters are there from the start.
    written_in = [BEFORE_FIRST_STAGE] * len(program.shapes)
    fixed: list[int] = []
    producers: dict[ValueId, int] = {}
    stages: list[list[int]] = [[] for _ in range(1 + max(p.stage_index for p in players))]
    reused: dict[str, None] = {}
    # What the stages compute. A comparison of parameters has no gradient, and so no source.
    varying: set[ValueId] = set()
    for index, equation in enumerate(program.equations):
        values = (*equation.value_inputs, *equation.outputs)
        # Values of parameters change with their player, although it has not acted yet.
        depends_on_player = any(dependencies[value] for value in equation.outputs)
        has_sources = any(source_leaves[value] for value in values)
        if not depends_on_player and not has_sources and varying.isdisjoint(values):
            fixed.append(index)
            continue
        varying.update(equation.outputs)
        # The stage of an equation is that of its latest input.
        inputs_written = (written_in[value] for value in equation.value_inputs)
        stage = max(inputs_written, default=BEFORE_FIRST_STAGE)
        # An equation runs as soon as its inputs are there, a use not before its player acts.
        if index in acting:
            player = acting[index]
            if stage > player.stage_index:
                reused[player.name] = None
            stage = max(stage, player.stage_index)
        elif all(batched.sample_axes[value] is None for value in equation.outputs):
            # A value of parameters or of the batch: recomputed where it is read.
            producers |= dict.fromkeys(equation.outputs, index)
            for value in equation.outputs:
                written_in[value] = stage
            continue
        for value in equation.outputs:
            written_in[value] = stage
        # An integer activation computed from parameters is no use: it waits for no player.
        stages[max(stage, 0)].append(index)
    live_values = _live_values(batched, stages, producers, written_in)
    return StageSchedule(
        tuple(fixed), tuple(map(tuple, stages)), producers, live_values, tuple(reused)
    )


def _live_values(
    batched: BatchedProgram,
    stages: Sequence[Sequence[int]],
    producers: Mapping[ValueId, int],
    written_in: Sequence[int],
) -> tuple[tuple[ValueId, ...], ...]:
    """The activations alive before each stage, and at the end."""
    equations = batched.program.equations

    def stored_inputs(equation: TracedEquation) -> set[ValueId]:
        """What an equation reads, with recomputed values traced back to what they read."""
        stored: set[ValueId] = set()
        pending = list(equation.value_inputs)
        while pending:
            value = pending.pop()
            if value in producers:
                pending.extend(equations[producers[value]].value_inputs)
            else:
                stored.add(value)
        return stored

    alive = set(batched.output_values)
    # From the last stage back: a state is alive until the last stage that reads it.
    from_last = [batched.output_values]
    for stage in reversed(range(len(stages))):
        for index in stages[stage]:
            alive |= stored_inputs(equations[index])
        # What was written before the first stage does not change and is no state.
        alive = {value for value in alive if BEFORE_FIRST_STAGE < written_in[value] < stage}
        from_last.append(tuple(sorted(alive)))
    return tuple(reversed(from_last))


def evaluate_fixed(
    batched: BatchedProgram, schedule: StageSchedule, values: Mapping[ValueId, Any]
) -> dict[ValueId, Any]:
    """`values` together with those of the equations that no player influences."""
    all_values = dict(values)
    for index in schedule.fixed_equations:
        evaluate_equation(batched.program.equations[index], all_values)
    return all_values


class StageEvaluation:
    """Runs the stages of a program one after the other.

    Args:
        batched: the model.
        schedule: its schedule.
        values: the known values, those of `evaluate_fixed` included.
    """

    def __init__(
        self, batched: BatchedProgram, schedule: StageSchedule, values: Mapping[ValueId, Any]
    ) -> None:
        self._equations, self._schedule = batched.program.equations, schedule
        self.values: dict[ValueId, Any] = dict(values)

    def drop_produced_values(self) -> None:
        """Forgets the values of parameters and of the batch, so that reading recomputes them."""
        for value in self._schedule.producers:
            self.values.pop(value, None)

    def read_value(self, value: ValueId) -> Any:
        """A value, computed first if it is an unknown one of parameters or of the batch."""
        # Produced values are computed on demand, because most stages read few of them.
        if value not in self.values:
            equation = self._equations[self._schedule.producers[value]]
            for source in equation.value_inputs:
                self.read_value(source)
            evaluate_equation(equation, self.values)
        return self.values[value]

    def run_equation(self, index: int) -> None:
        """Evaluates one equation of a stage."""
        for value in self._equations[index].value_inputs:
            self.read_value(value)
        evaluate_equation(self._equations[index], self.values)

    def run_stage(self, stage_index: int) -> None:
        """Evaluates all equations of a stage."""
        for index in self._schedule.stage_equations[stage_index]:
            self.run_equation(index)
