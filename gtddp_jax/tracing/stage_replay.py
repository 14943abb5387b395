"""The stages of a traced model run again, with new parameters (paper Alg. 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.outputs import split_outputs
from gtddp_jax.core.trees import per_sample_dot, upcast
from gtddp_jax.core.types import Outputs, PerSample, PlayerTrees
from gtddp_jax.tracing.player_gradients import named_arrays
from gtddp_jax.tracing.shifted_model import ShiftedModel
from gtddp_jax.tracing.traced_model import TracedModel
from gtddp_jax.tracing.traced_program import read_atom


class OldPass(NamedTuple):
    """What a replay compares with.

    Attributes:
        outputs: the outputs with the old parameters.
        output_gradient: the gradient of each sample's loss by them.
        states: for each stage, the live states before it.
        state_adjoints: the gradients of each sample's loss by these states.
    """

    outputs: Outputs
    output_gradient: Outputs
    states: list[list[Any]]
    state_adjoints: list[list[jax.Array]]


class StageReplay:
    """A second forward pass, stage by stage, on the states after the stages before.

    Args:
        traced: the model.
        model: the model as a function of shifts, made with `replayed=True`.
        old_pass: the outputs and states with the old parameters, and their adjoints.
    """

    def __init__(self, traced: TracedModel, model: ShiftedModel, old_pass: OldPass) -> None:
        self._traced, self._model, self._old_pass = traced, model, old_pass
        # One evaluation for all stages: each starts from the new states that the last one left.
        self._evaluation = model.start_evaluation()
        self._players = {player.name: player for player in traced.players}
        self.outputs: Any = None

    def run_stage(self, stage_index: int, new_params: PlayerTrees) -> PerSample:
        """Runs a stage with new parameters of its players.

        Returns:
            `g . (x' - x)` [B] over what is alive after the stage.
        """
        batched, evaluation = self._traced.batched, self._evaluation
        param_values = batched.program.groups["params"]
        for name, player_params in new_params.items():
            player, arrays = self._players[name], named_arrays(player_params)
            for key, leaf in zip(player.keys, player.leaves, strict=True):
                evaluation.values[param_values[leaf]] = arrays[key]
        # Values of parameters and of the batch belong to the old parameters and states.
        evaluation.drop_produced_values()
        evaluation.run_stage(stage_index)
        if stage_index + 1 < len(self._traced.schedule.stage_equations):
            return self._state_change(stage_index + 1)
        leaves = [read_atom(evaluation.values, atom) for atom in batched.output_atoms]
        # After the last stage, what is alive are the outputs.
        old_outputs = self._old_pass.outputs
        self.outputs = jax.tree.unflatten(jax.tree.structure(old_outputs), leaves)
        # Outputs without a derivative take part in the loss, but not in its first-order change.
        new, old = (split_outputs(outputs)[0] for outputs in (self.outputs, old_outputs))
        change = jax.tree.map(lambda new, old: upcast(new) - upcast(old), new, old)
        return per_sample_dot(self._old_pass.output_gradient, change)

    def _state_change(self, stage_index: int) -> PerSample:
        """`g . (x' - x)` [B] over the states before a stage, for their new values x'."""
        products = []
        for value, g, old in zip(
            self._model.states_before(stage_index),
            self._old_pass.state_adjoints[stage_index],
            self._old_pass.states[stage_index],
            strict=True,
        ):
            # Per-sample products need the samples on the first axis.
            axis = self._traced.batched.activation_axis(value)
            products.append(
                per_sample_dot(
                    axis.to_front(g),
                    axis.to_front(upcast(self._evaluation.values[value]) - upcast(old)),
                )
            )
        return jnp.stack(products).sum(0)
