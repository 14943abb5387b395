"""Which operation runs in which stage, and what is alive in between (paper Eq. 7, 26).

| operation                                    | when it runs                                  |
|----------------------------------------------|-----------------------------------------------|
| depends on no player                         | before the first stage, once                  |
| writes activations                           | in the stage of the last player it depends on |
| writes a value of parameters or of the batch | in each stage that reads it, anew             |
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gtddp_jax.flax_models.grouping import Member, dependencies
from gtddp_jax.flax_models.program import Equation, Value, evaluate
from gtddp_jax.flax_models.uses import Traced, Use


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The equations of a program by stage.

    Attributes:
        fixed: positions of the equations that no player influences.
        stages: positions of the equations of each stage.
        makers: for each value of parameters or of the batch, the equation that makes it.
        live: for each stage the activations alive before it; last the outputs.
        late: players that are used again after the stage in which they act.
    """

    fixed: tuple[int, ...]
    stages: tuple[tuple[int, ...], ...]
    makers: dict[Value, int]
    live: tuple[tuple[Value, ...], ...]
    late: tuple[str, ...]


def schedule(
    traced: Traced, uses: Sequence[Use], owners: Sequence[frozenset[int]], members: Sequence[Member]
) -> Schedule:
    """Distributes the equations that the outputs need over the stages.

    Args:
        traced: the model.
        uses: its uses of parameters.
        owners: for each value, the parameters that it is made of.
        members: the players.
    """
    program = traced.program
    acting = {i: m for m in members for i in m.uses}
    at = {use.index: acting[i] for i, use in enumerate(uses)}
    numbers = {member.name: n for n, member in enumerate(members)}
    depends = dependencies(traced, uses, [numbers[acting[i].name] for i in range(len(uses))])
    count = 1 + max(member.level for member in members)
    when = [-1] * len(program.shapes)
    fixed, makers = [], {}
    stages: list[list[int]] = [[] for _ in range(count)]
    late: dict[str, None] = {}
    for index, equation in enumerate(program.equations):
        moving = any(depends[v] for v in equation.outputs) or any(
            owners[v] for v in (*equation.read, *equation.outputs)
        )
        if not moving:
            fixed.append(index)
            continue
        stage = max((when[v] for v in equation.read), default=-1)
        if index in at:
            member = at[index]
            stage = max(stage, member.level)
            if stage > member.level:
                late[member.name] = None
        elif all(traced.axes[v] is None for v in equation.outputs):
            makers |= dict.fromkeys(equation.outputs, index)
            for value in equation.outputs:
                when[value] = stage
            continue
        for value in equation.outputs:
            when[value] = stage
        stages[max(stage, 0)].append(index)
    live = _live(traced, stages, makers, when)
    return Schedule(tuple(fixed), tuple(map(tuple, stages)), makers, live, tuple(late))


def _live(
    traced: Traced, stages: Sequence[Sequence[int]], makers: dict[Value, int], when: Sequence[int]
) -> tuple[tuple[Value, ...], ...]:
    """The activations alive before each stage, and at the end."""
    equations = traced.program.equations

    def sources(equation: Equation) -> set[Value]:
        found: set[Value] = set()
        todo = list(equation.read)
        while todo:
            value = todo.pop()
            if value in makers:
                todo.extend(equations[makers[value]].read)
            else:
                found.add(value)
        return found

    end = tuple(
        dict.fromkeys(v for v in traced.program.outputs[: traced.outputs] if isinstance(v, int))
    )
    alive: set[Value] = set(end)
    before = [end]
    for t in reversed(range(len(stages))):
        for index in stages[t]:
            alive |= sources(equations[index])
        alive = {v for v in alive if 0 <= when[v] < t}
        before.append(tuple(sorted(alive)))
    return tuple(reversed(before))


def fixed_values(traced: Traced, plan: Schedule, values: dict[Value, Any]) -> dict[Value, Any]:
    """`values` with those of the equations that no player influences."""
    found = dict(values)
    for index in plan.fixed:
        evaluate(traced.program.equations[index], found)
    return found


class Evaluation:
    """Runs the stages of a program one after the other.

    Args:
        traced: the model.
        plan: its schedule.
        values: what is known, `fixed_values` included.
    """

    def __init__(self, traced: Traced, plan: Schedule, values: dict[Value, Any]) -> None:
        self._equations, self._plan = traced.program.equations, plan
        self.values: dict[Value, Any] = dict(values)

    def forget(self) -> None:
        """Drops the values of parameters and of the batch, to be made anew when read."""
        for value in self._plan.makers:
            self.values.pop(value, None)

    def need(self, value: Value) -> Any:
        """A value, made if it is one of parameters or of the batch."""
        if value not in self.values:
            equation = self._equations[self._plan.makers[value]]
            for source in equation.read:
                self.need(source)
            evaluate(equation, self.values)
        return self.values[value]

    def equation(self, index: int) -> None:
        """Evaluates an equation of a stage."""
        for value in self._equations[index].read:
            self.need(value)
        evaluate(self._equations[index], self.values)
