"""Which players a value depends on, and in which stage each player can act.

A player acts as early as its inputs allow: players without a path between them act in the same
stage. Sets of players are bit sets, because there is one for every value of the program.
"""

from collections.abc import Sequence

from gtddp_jax.tracing.parameter_uses import BatchedProgram, ParameterUse


def player_dependencies(
    batched: BatchedProgram, uses: Sequence[ParameterUse], player_of_use: Sequence[int]
) -> list[int]:
    """For each value, the players that it depends on, as a bit set.

    Args:
        batched: the model.
        uses: its uses of parameters.
        player_of_use: the player of each use.
    """
    program = batched.program
    acting = {use.equation_index: player for use, player in zip(uses, player_of_use, strict=True)}
    dependencies = [0] * len(program.shapes)
    for index, equation in enumerate(program.equations):
        players = 0
        for value in equation.value_inputs:
            players |= dependencies[value]
        if index in acting:
            players |= 1 << acting[index]
        for value in equation.outputs:
            dependencies[value] = players
    return dependencies


def _depends_on_inputs(batched: BatchedProgram) -> list[bool]:
    """For each value, whether it depends on the inputs of the model."""
    dependent = [False] * len(batched.program.shapes)
    for value in batched.program.groups["inputs"]:
        dependent[value] = True
    for equation in batched.program.equations:
        if any(dependent[value] for value in equation.value_inputs):
            for value in equation.outputs:
                dependent[value] = True
    return dependent


def _first_meeting(
    batched: BatchedProgram, index: int, depends_on_inputs: Sequence[bool], use_indices: set[int]
) -> int:
    """The first equation, from a use on, in which its result meets data or other parameters.

    A use may write an activation without reading data, for example by broadcasting a class token;
    such a player can act at the latest where that activation is read together with others.
    """
    equations = batched.program.equations
    if any(depends_on_inputs[value] for value in equations[index].value_inputs):
        return index
    reached = set(equations[index].outputs)
    for later in range(index + 1, len(equations)):
        equation = equations[later]
        if reached.intersection(equation.value_inputs):
            # Constants and shapes (a mask, positions) are no data.
            reads_data = any(depends_on_inputs[value] for value in equation.value_inputs)
            if later in use_indices or reads_data:
                return later
            reached.update(equation.outputs)
    return index


def assign_stages(
    batched: BatchedProgram,
    uses: Sequence[ParameterUse],
    player_of_use: Sequence[int],
    player_count: int,
) -> tuple[int, ...]:
    """The stage of each player: one after the last player on whom its first use depends.

    Args:
        batched: the model.
        uses: its uses of parameters.
        player_of_use: the player of each use.
        player_count: the number of players.
    """
    dependencies = player_dependencies(batched, uses, player_of_use)
    depends_on_inputs = _depends_on_inputs(batched)
    use_indices = {use.equation_index for use in uses}
    # Players that must have acted before each player, as bit sets.
    predecessors = [0] * player_count
    placed: set[int] = set()
    for use, player in zip(uses, player_of_use, strict=True):
        # Only the first use places a player; later uses may come after any stage.
        if player in placed:
            continue
        placed.add(player)
        first_use = batched.program.equations[use.equation_index]
        meeting = batched.program.equations[
            _first_meeting(batched, use.equation_index, depends_on_inputs, use_indices)
        ]
        for value in (*first_use.value_inputs, *meeting.value_inputs):
            predecessors[player] |= dependencies[value]
        # The meeting equation reads what the player itself has written.
        predecessors[player] &= ~(1 << player)
    stages: dict[int, int] = {}

    def stage_of(player: int, successors: int) -> int:
        # `successors` are the players whose stages wait for this one: players that are used
        # several times may depend on each other, and a cycle is cut where it closes.
        if player not in stages:
            earlier = [
                other
                for other in range(player_count)
                if predecessors[player] >> other & 1 and not successors >> other & 1
            ]
            waiting = successors | 1 << player
            stages[player] = 1 + max((stage_of(other, waiting) for other in earlier), default=-1)
        return stages[player]

    return tuple(stage_of(player, 0) for player in range(player_count))
