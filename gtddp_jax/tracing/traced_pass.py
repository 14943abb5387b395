"""One batch through a traced model: the forward pass, the adjoints, the players' gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.outputs import join_outputs, split_outputs
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Batch, Outputs, PerSample, PlayerTrees, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.protocol import NetworkPass, PlayerTape
from gtddp_jax.network.sample_gradients.base import SampleGradients
from gtddp_jax.tracing.grouping import PlayerGroup
from gtddp_jax.tracing.layer_match import layer_data
from gtddp_jax.tracing.ops import BoundUse, UseGradients, match_use
from gtddp_jax.tracing.param_views import find_param_view
from gtddp_jax.tracing.player_gradients import (
    OperandFn,
    SharedGradients,
    ViewedUse,
    ViewGradients,
    ZeroGradients,
    shared_cost_rule,
    view_cost_rule,
)
from gtddp_jax.tracing.shifted_model import ForwardRecord, ShiftedModel, Shifts
from gtddp_jax.tracing.stage_replay import OldPass, StageReplay
from gtddp_jax.tracing.traced_model import TracedModel


class TracedPass(NetworkPass):
    """A training batch through a traced model.

    Args:
        traced: the model at this batch size.
        params: the leaves of the parameters.
        state: the model's other state.
        rngs: random keys by stream.
        inputs: the inputs, leaves [B, ...].
        samples: the sample axis.
        replayed: whether the stages will be run again with new parameters.

    Raises:
        NetworkError: the stages cannot be run again.
    """

    def __init__(
        self,
        traced: TracedModel,
        params: Sequence[Any],
        state: Tree,
        rngs: Mapping[str, Any],
        inputs: Batch,
        samples: SampleReductions,
        *,
        replayed: bool,
    ) -> None:
        reused = traced.schedule.reused_players
        if replayed and reused:
            raise NetworkError(
                "rollout='nonlinear' runs stage after stage with new parameters, but "
                f"{list(reused)} are used again after the stage in which they act (shared weights, "
                "or modules that act as one). Use rollout='linear', which needs no second forward "
                "pass."
            )
        self._traced, self._params = traced, list(params)
        program = traced.batched.program
        known = program.initial_values(params=params, state=state, rngs=rngs, inputs=inputs)
        self._model = ShiftedModel(traced, known, replayed=replayed)
        # Shifts local to the device make the adjoints this device's share, not the sum over all.
        shifts = samples.local_copy(self._model.zero_shifts())

        def differentiable_outputs(shifts: Shifts) -> tuple[Outputs, tuple[Tree, ForwardRecord]]:
            output_leaves, record = self._model(shifts)
            differentiable, constants = split_outputs(output_leaves)
            return differentiable, (constants, record)

        differentiable, self._pullback, (constants, self._record) = jax.vjp(
            differentiable_outputs, shifts, has_aux=True
        )
        # The model's next state is auxiliary.
        output_leaves: Any = join_outputs(differentiable, constants)
        result = jax.tree.unflatten(program.structure, [*output_leaves, *self._record.model_state])
        self._output_structure = jax.tree.structure(differentiable)
        self.outputs: Outputs = result[0]
        self.batch_stats: Tree = _mean_over_devices(result[1], samples)
        self._replay: StageReplay | None = None

    def propagate(self, gradient: Outputs) -> None:
        """Propagates the gradients of the outputs to the uses and the live states."""
        # A list with None for the outputs without a derivative, as `differentiable_outputs` has it.
        leaves = jax.tree.leaves(gradient)
        (self._adjoints,) = self._pullback(jax.tree.unflatten(self._output_structure, leaves))
        self._output_gradient = gradient

    @override
    def player_tapes(self, gradient: Outputs, *, feedback: bool) -> list[dict[str, PlayerTape]]:
        self.propagate(gradient)
        stages: list[dict[str, PlayerTape]] = [{} for _ in self._traced.schedule.stage_equations]
        # Players are listed in the order of their stages, and tapes follow it.
        for player in self._traced.players:
            tape = self._player_tape(player, feedback=feedback)
            stages[player.stage_index][player.name] = tape
        return stages

    def _player_tape(self, player: PlayerGroup, *, feedback: bool) -> PlayerTape:
        gradients = self._sample_gradients(player, feedback=feedback)
        match = self._traced.layer_matches[player.name]
        if match.kernel_use is None:
            # Only Kronecker curvature reads inputs and adjoints, and it takes no other layers.
            nothing = jnp.zeros((self._traced.batched.batch_size, 0))
            return PlayerTape(nothing, nothing, gradients)
        # The use may see the kernel in another shape than the parameter has.
        kernel = self._params[player.leaves[player.keys.index("kernel")]]
        inputs, adjoints = layer_data(match, self._bind_use(match.kernel_use), kernel)
        return PlayerTape(inputs, adjoints, gradients)

    @override
    def replay_stage(self, stage_number: int, new_params: PlayerTrees) -> PerSample:
        if self._replay is None:
            old_pass = OldPass(
                self.outputs, self._output_gradient, self._record.states, self._adjoints.states
            )
            self._replay = StageReplay(self._traced, self._model, old_pass)
        return self._replay.run_stage(stage_number, new_params)

    @property
    @override
    def new_outputs(self) -> Outputs | None:
        return None if self._replay is None else self._replay.outputs

    def _bind_use(self, number: int) -> BoundUse:
        """A use together with its inputs and adjoints."""
        batched, use = self._traced.batched, self._traced.uses[number]
        equation = batched.program.equations[use.equation_index]
        # The record holds arrays only; literals are in the equation.
        arrays = iter(self._record.use_inputs[number])
        inputs = tuple(
            next(arrays) if isinstance(atom, int) else atom.val for atom in equation.inputs
        )
        input_axes = tuple(
            batched.sample_axes[atom] if isinstance(atom, int) and i not in use.operands else None
            for i, atom in enumerate(equation.inputs)
        )
        return BoundUse(
            equation=equation,
            operand_positions=use.operands,
            inputs=inputs,
            input_axes=input_axes,
            output_positions=use.outputs,
            adjoints=tuple(self._adjoints.uses[number]),
            output_axes=tuple(batched.activation_axis(equation.outputs[i]) for i in use.outputs),
            batch_size=batched.batch_size,
            single_sample_equation=lambda: self._traced.single_sample_equation(use.equation_index),
        )

    def _use_gradients(self, player: PlayerGroup) -> list[UseGradients]:
        """The per-sample gradients of a player's uses."""
        return [match_use(self._bind_use(number)) for number in player.uses]

    def _sample_gradients(self, player: PlayerGroup, *, feedback: bool) -> SampleGradients:
        """The per-sample gradients of a player."""
        params = {
            key: self._params[leaf] for key, leaf in zip(player.keys, player.leaves, strict=True)
        }
        if not player.uses:
            return ZeroGradients(params, self._traced.batched.batch_size, jnp.float32)
        # Sums at the uses are cheaper than pulling them back through a function.
        gradients = self._use_gradients(player)
        viewed_uses = self._viewed_uses(player, gradients)
        if viewed_uses is not None:
            return ViewGradients(viewed_uses, feedback=feedback)
        return SharedGradients(gradients, self._operand_fn(player), params, feedback=feedback)

    def cost_rule(self, player: PlayerGroup) -> str:
        """How a player's sums over samples are computed with feedback, by its largest parameter."""
        if not player.uses:
            return "-"
        gradients = self._use_gradients(player)
        if self._viewed_uses(player, gradients) is None:
            count = sum(self._params[leaf].size for leaf in player.leaves)
            return shared_cost_rule(gradients, count, feedback=True)
        largest = max(gradients, key=lambda each: each.use.operands[0].size)
        return view_cost_rule(largest, feedback=True)

    def _viewed_uses(
        self, player: PlayerGroup, gradients: Sequence[UseGradients]
    ) -> dict[str, ViewedUse] | None:
        """The only use of each parameter; None if one is used twice or transformed before."""
        program = self._traced.batched.program
        key_of_value = {
            program.groups["params"][leaf]: key
            for leaf, key in zip(player.leaves, player.keys, strict=True)
        }
        viewed: dict[str, ViewedUse] = {}
        for each in gradients:
            if len(each.use.operand_positions) != 1:
                return None
            operand: Any = each.use.equation.inputs[each.use.operand_positions[0]]
            view = find_param_view(program, self._traced.schedule.producers, operand)
            # A second use of a parameter, or one that transforms it, makes the player shared.
            if view is None or key_of_value[view[0]] in viewed:
                return None
            viewed[key_of_value[view[0]]] = each, view[1]
        return (
            {key: viewed[key] for key in player.keys} if len(viewed) == len(player.keys) else None
        )

    def _operand_fn(self, player: PlayerGroup) -> OperandFn:
        """The function from a player's parameters to the operands of all its uses."""
        program = self._traced.batched.program
        uses = [self._traced.uses[number] for number in player.uses]
        operands: list[Any] = [
            program.equations[use.equation_index].inputs[i] for use in uses for i in use.operands
        ]

        def operands_of(params: Mapping[str, Any]) -> list[jax.Array]:
            evaluation = self._model.start_evaluation()
            # Everything is recomputed from the parameters, given the constants of the batch.
            evaluation.drop_produced_values()
            evaluation.values |= self._record.batch_constants
            for key, leaf in zip(player.keys, player.leaves, strict=True):
                evaluation.values[program.groups["params"][leaf]] = params[key]
            return [evaluation.read_value(operand) for operand in operands]

        return operands_of


def _mean_over_devices(state: Tree, samples: SampleReductions) -> Tree:
    """The model's other state, the same on all devices: floating-point leaves are averaged."""

    def leaf_mean(leaf: jax.Array) -> jax.Array:
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jax.lax.pmean(leaf, samples.axis_name) if inexact else leaf

    return jax.tree.map(leaf_mean, state) if samples.axes else state
