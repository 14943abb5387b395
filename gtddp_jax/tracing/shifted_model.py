"""A traced model as a function of shifts, whose derivatives are the adjoints.

A *shift* is a zero that is added to the output of a use and, if the stages are replayed, to a live
state. The derivative of the loss by a shift is the adjoint of the value that it is added to, so one
vjp of the whole model gives all adjoints.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.tracing.stage_schedule import StageEvaluation, evaluate_fixed
from gtddp_jax.tracing.traced_model import TracedModel
from gtddp_jax.tracing.traced_program import ValueId


class Shifts(NamedTuple):
    """Zeros by which the backward pass differentiates.

    Attributes:
        uses: for each use, one array for each activation that it writes.
        states: for each stage, one array for each live state before it; empty lists if the stages
            are not replayed.
    """

    uses: list[list[jax.Array]]
    states: list[list[jax.Array]]


class ForwardRecord(NamedTuple):
    """What a forward pass keeps besides the outputs.

    Attributes:
        model_state: leaves of the model's next other state.
        use_inputs: the values that each use reads.
        batch_constants: what the operands of uses are computed from besides parameters.
        states: for each stage, the live states before it; empty lists if not replayed.
    """

    model_state: list[Any]
    use_inputs: list[list[Any]]
    batch_constants: dict[ValueId, Any]
    states: list[list[Any]]


class ShiftedModel:
    """The training pass of a model for one batch, as a function of shifts.

    Args:
        traced: the model at this batch size.
        known_values: parameters, state, keys and inputs, by value.
        replayed: whether the live states are shifted too.
    """

    def __init__(
        self, traced: TracedModel, known_values: Mapping[ValueId, Any], *, replayed: bool
    ) -> None:
        self._traced, self._replayed = traced, replayed
        # What no player influences is computed once and serves all evaluations of the stages.
        self._fixed_values = evaluate_fixed(traced.batched, traced.schedule, known_values)

    def zero_shifts(self) -> Shifts:
        """The shifts of this model, all zero."""
        program = self._traced.batched.program

        def zeros(value: ValueId) -> jax.Array:
            return jnp.zeros(program.shapes[value].shape, program.shapes[value].dtype)

        uses = [
            [zeros(program.equations[use.equation_index].outputs[i]) for i in use.outputs]
            for use in self._traced.uses
        ]
        # One shift for each use and state: their derivatives come out of a single vjp.
        stages = range(len(self._traced.schedule.stage_equations))
        return Shifts(uses, [[zeros(value) for value in self.states_before(t)] for t in stages])

    def states_before(self, stage_index: int) -> list[ValueId]:
        """The differentiable activations alive before a stage, if the stages are replayed.

        There are none before the first stage: the inputs do not change.
        """
        # Without a replay nobody asks for these adjoints, and every shift costs memory.
        if stage_index == 0 or not self._replayed:
            return []
        live = self._traced.schedule.live_values[stage_index]
        return [value for value in live if self._traced.batched.is_differentiable(value)]

    def start_evaluation(self) -> StageEvaluation:
        """The stages, ready to be run from the first one on."""
        return StageEvaluation(self._traced.batched, self._traced.schedule, self._fixed_values)

    def __call__(self, shifts: Shifts) -> tuple[list[Any], ForwardRecord]:
        """The leaves of the outputs as a function of the shifts."""
        traced, evaluation = self._traced, self.start_evaluation()
        program, values = traced.batched.program, evaluation.values
        use_at = {use.equation_index: number for number, use in enumerate(traced.uses)}
        use_inputs: list[list[Any]] = [[] for _ in traced.uses]
        states: list[list[Any]] = []
        batch_constants: dict[ValueId, Any] = {}
        for stage_index, equations in enumerate(traced.schedule.stage_equations):
            states_before = self.states_before(stage_index)
            if self._replayed and stage_index > 0:
                # Values of the batch must see the shifts of the states that they come from.
                evaluation.drop_produced_values()
            states.append([values[value] for value in states_before])
            for value, shift in zip(states_before, shifts.states[stage_index], strict=True):
                values[value] = values[value] + shift
            for index in equations:
                evaluation.run_equation(index)
                if index not in use_at:
                    continue
                equation, number = program.equations[index], use_at[index]
                # Recorded before the shift of this use's own output.
                use_inputs[number] = [values[value] for value in equation.value_inputs]
                # Statistics of the batch are held fixed when operands are recomputed.
                batch_constants |= self._constants_of(evaluation, equation.value_inputs)
                output_positions = traced.uses[number].outputs
                for position, shift in zip(output_positions, shifts.uses[number], strict=True):
                    value = equation.outputs[position]
                    values[value] = values[value] + shift
        # Statistics may be values of the batch, which are computed when they are read.
        leaves = [
            evaluation.read_value(atom) if isinstance(atom, int) else atom.val
            for atom in program.outputs
        ]
        count = traced.batched.output_count
        return leaves[:count], ForwardRecord(leaves[count:], use_inputs, batch_constants, states)

    def _constants_of(
        self, evaluation: StageEvaluation, operands: Sequence[ValueId]
    ) -> dict[ValueId, Any]:
        """What values of parameters are computed from besides parameters."""
        equations = self._traced.batched.program.equations
        producers, source_leaves = self._traced.schedule.producers, self._traced.source_leaves
        constants: dict[ValueId, Any] = {}
        # Back from the operands to the parameters; what else is met on the way is a constant.
        pending = [value for value in operands if source_leaves[value]]
        while pending:
            value = pending.pop()
            if value in producers:
                for source in equations[producers[value]].value_inputs:
                    if source_leaves[source]:
                        pending.append(source)
                    else:
                        constants[source] = evaluation.read_value(source)
        return constants
