"""The stages of a traced model as objects: their players, and the dynamics one step at a time."""

import dataclasses
from typing import Any

import jax

from gtddp_jax.core.types import PlayerTrees
from gtddp_jax.network.program import PlayerOp
from gtddp_jax.tracing.model_tracer import ModelTracer
from gtddp_jax.tracing.stage_schedule import StageEvaluation, evaluate_fixed
from gtddp_jax.tracing.traced_program import read_atom


@dataclasses.dataclass(frozen=True)
class TracedStage:
    """One step of the state-augmented dynamics of a traced model.

    Attributes:
        tracer: the model and its traces.
        index: the number of the stage, from 0.
        player_ops: the players that act in this stage; each `module` is a description from
            `gtddp_jax.network.sample_gradients.layer_descriptions`.
    """

    tracer: ModelTracer
    index: int
    player_ops: tuple[PlayerOp, ...]
    ops: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the players that act in this stage."""
        return tuple(player_op.name for player_op in self.player_ops)

    def __call__(self, params: PlayerTrees, states: tuple[Any, ...]) -> tuple[Any, ...]:
        """Maps the live states to the next ones, each [B, ...]; for models without randomness.

        The states before the first stage are the leaves of the inputs, which remain among the
        states of every stage; those after the last stage are the leaves of the outputs.
        """
        model, structure = self.tracer.model, self.tracer.input_structure
        input_leaves = states[: structure.num_leaves]
        live = states[structure.num_leaves :]
        inputs = jax.tree.unflatten(structure, input_leaves)
        leaves = self.tracer.merge_leaves(params)
        traced = self.tracer.trace(leaves, model.state, {}, inputs)
        batched, schedule = traced.batched, traced.schedule
        # The stages of a model are deterministic: there are no random keys to pass.
        known = batched.program.initial_values(
            params=leaves, state=model.state, rngs={}, inputs=inputs
        )
        values = evaluate_fixed(batched, schedule, known)
        # States are [B, ...]; the program keeps some of them with another sample axis.
        for value, state in zip(schedule.live_values[self.index], live, strict=True):
            values[value] = batched.activation_axis(value).from_front(state)
        # Earlier stages do not run again: their activations are the states.
        evaluation = StageEvaluation(batched, schedule, values)
        evaluation.run_stage(self.index)
        if self.index + 1 == len(schedule.stage_equations):
            return tuple(read_atom(evaluation.values, atom) for atom in batched.output_atoms)
        next_states = (
            batched.activation_axis(value).to_front(evaluation.values[value])
            for value in schedule.live_values[self.index + 1]
        )
        return (*input_leaves, *next_states)


def build_traced_stages(tracer: ModelTracer) -> tuple[TracedStage, ...]:
    """The stages of a model."""
    traced = tracer.example_trace
    player_ops: list[list[PlayerOp]] = [[] for _ in traced.schedule.stage_equations]
    for player in traced.players:
        match = traced.layer_matches[player.name]
        player_ops[player.stage_index].append(
            PlayerOp(player.name, match.layer, match.source, match.target)
        )
    return tuple(TracedStage(tracer, index, tuple(ops)) for index, ops in enumerate(player_ops))
