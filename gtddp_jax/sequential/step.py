"""One step of the sequential game: forward pass, backward pass, rollout, safety check."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core import validation
from gtddp_jax.core.call_context import (
    refuse_later_members,
    refuse_lost_updates,
    refuse_wrappers,
)
from gtddp_jax.core.counted_samples import CountedSamples, samples_with_gradient
from gtddp_jax.core.outputs import join_outputs, split_outputs
from gtddp_jax.core.report import (
    LossAndAux,
    Report,
    SampleWeightObserver,
    StepObserver,
    empty_report,
    report_line,
)
from gtddp_jax.core.running_cost import total_running_gradient
from gtddp_jax.core.safety import all_finite, tree_where, zeros_unless
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Flag, Loss, Outputs, PerSample, PlayerTrees, Tree
from gtddp_jax.curvature.base import Curvature, CurvatureState
from gtddp_jax.network.protocol import (
    NetworkPass,
    StagedNetwork,
    params_by_stage,
    stage_indices,
)
from gtddp_jax.sequential.backward import StagePlan, plan_stages
from gtddp_jax.sequential.placement_bandit import PlacementState
from gtddp_jax.sequential.rollout import (
    ROLLOUTS,
    RolloutResult,
    closed_loop_rollout,
    open_loop_rollout,
)
from gtddp_jax.sequential.step_losses import LossesThroughNetwork, LossOnBatch, NetworkLosses
from gtddp_jax.sequential.step_report import first_order_changes, step_report
from gtddp_jax.terminal import TerminalExpansion, TerminalModel
from gtddp_jax.terminal.coupling import expand_terminal
from gtddp_jax.terminal.first_order import FirstOrder

INSIDE = "gtddp_jax.gtddp(net, loss, gtddp_jax.curvature.FromOptax({base}))"
"""How to build the game around a base, for messages."""


class GTDDPState(NamedTuple):
    """The state of `gtddp`.

    Attributes:
        curvature: the base method's state for each stage.
        report: diagnostics of the last step.
        batch_stats: running statistics `{layer: {"mean": [features], "var": [features]}}` after the
            last step that was not skipped; empty without `nn.BatchNorm`.
        placement: what the bandit has learned about the placements of shortcuts, `()` without
            `Residual(at="bandit")`.
    """

    curvature: tuple[CurvatureState, ...]
    report: Report
    batch_stats: Tree
    placement: PlacementState | tuple[()] = ()

    def __repr__(self) -> str:
        return f"GTDDPState({report_line(self.report)})"


EQUILIBRIA = ("feedback", "open_loop")
"""What a player knows of the others, by the names of dynamic game theory."""


@dataclasses.dataclass(frozen=True)
class SequentialGame:
    """The options of `gtddp`, validated, and its two functions."""

    net: StagedNetwork
    loss: Loss | None
    curvature: Curvature
    equilibrium: str
    terminal: TerminalModel
    rollout: str
    axis_name: AxisName
    self_response: bool

    def __post_init__(self) -> None:
        if not isinstance(self.net, StagedNetwork):
            raise ValueError(
                "gtddp: net must be a gtddp_jax.Network or the result of gtddp_jax.from_flax, got "
                f"{type(self.net).__name__}."
            )
        if not isinstance(self.curvature, Curvature):
            raise ValueError(
                "gtddp: curvature must come from gtddp_jax.curvature, got "
                f"{type(self.curvature).__name__}. Pass an optax transformation as "
                "gtddp_jax.curvature.FromOptax(tx)."
            )
        if not isinstance(self.terminal, TerminalModel):
            raise ValueError(
                f"gtddp: terminal must come from gtddp_jax.terminal, got {self.terminal!r}. Pass, "
                "for example, gtddp_jax.terminal.ExactLoss(max_shift=1.0)."
            )
        if self.equilibrium not in EQUILIBRIA:
            raise ValueError(
                f"gtddp: equilibrium must be one of {EQUILIBRIA}, got {self.equilibrium!r}. With a "
                "prediction of everybody's step play gtddp_jax.implicit, with full knowledge "
                "gtddp_jax.joint."
            )
        if self.rollout not in ROLLOUTS:
            raise ValueError(f"Invalid rollout: {self.rollout!r}. Supported: {tuple(ROLLOUTS)}.")

    @property
    def feedback(self) -> bool:
        """Whether a player knows what the others do."""
        return self.equilibrium == "feedback"

    def init_state(self, params: Tree, batch_stats: Tree) -> GTDDPState:
        """The state before the first step, with the running statistics `batch_stats`."""
        self._check_params(params)
        stages = self.net.stages
        stage_params = params_by_stage(stages, self.net.split(params))
        states = tuple(
            self.curvature.init(params, stage_index)
            for params, stage_index in zip(stage_params, stage_indices(stages), strict=True)
        )
        report = empty_report(len(stages), has_open_gain=True)
        # The state must own its arrays: aliased buffers cannot be donated.
        return GTDDPState(states, report, jax.tree.map(jnp.copy, batch_stats))

    def update_state(
        self,
        updates: Tree | None,
        state: GTDDPState,
        params: Tree,
        batch: Any,
        losses: Any,
        rngs: Any,
        observe: SampleWeightObserver | None = None,
        observe_step: StepObserver | None = None,
        extra_args: Mapping[str, object] = MappingProxyType({}),
    ) -> tuple[Tree, GTDDPState]:
        """One step: the changes of the parameters and the next state."""
        self._check_sources(params, batch, losses, rngs)
        self._check_arguments(updates, state, params)
        step_losses = self._step_losses(state, params, batch, losses, rngs)
        player_params: Any = self.net.split(params)
        batch_size = self.net.batch_size(step_losses.inputs)
        validation.refuse_empty_batch("gtddp", batch_size)
        samples = SampleReductions(batch_size, self.axis_name)
        # Derivatives by replicated parameters would be summed over devices under `shard_map`; by a
        # local copy they stay local, and `samples` reduces them once.
        player_params = samples.local_copy(player_params)
        network_pass = self.net.forward(
            player_params,
            step_losses.inputs,
            step_losses.batch_stats,
            step_losses.device_keys(samples),
            samples,
            replayed=self.feedback and ROLLOUTS[self.rollout].replays,
        )

        outputs, constants = split_outputs(network_pass.outputs)

        def losses_of_differentiable(outputs: Outputs) -> PerSample:
            return step_losses.per_sample(join_outputs(outputs, constants))

        # The base method alone asks for first derivatives only.
        model = self.terminal if self.feedback else FirstOrder()
        terminal = expand_terminal(model, losses_of_differentiable, outputs, samples)
        # The shape of the losses is valid here; outputs and targets may still broadcast wrongly.
        step_losses.check(network_pass)
        regularizer, regularizer_gradient = step_losses.regularizer_and_grad(network_pass)
        running_gradient = total_running_gradient(updates, regularizer_gradient, params)
        loss = samples.mean(terminal.exact_loss.value) + regularizer
        if observe_step is not None:
            observe_step(LossAndAux(loss, step_losses.aux(network_pass)))
        counted = samples_with_gradient(samples, terminal.exact_loss.has_gradient)
        terminal = terminal.with_gradient_share(counted.share)
        try:
            plans, rollout = self._play_game(
                network_pass,
                terminal,
                player_params,
                self.net.split(running_gradient),
                state,
                counted,
                {"value": loss, **extra_args},
            )
        except Exception:
            expected = jax.eval_shape(lambda: self.init_state(params, state.batch_stats))
            validation.check_state_structure("gtddp", state.curvature, expected.curvature)
            raise
        validation.check_state_structure("gtddp", state.curvature, rollout.states)
        if observe is not None:
            observe(rollout.sample_weights)
        # One decision for all devices, so that their parameters stay equal.
        is_finite = samples.all(_is_finite_step(player_params, terminal, rollout, network_pass))
        report = step_report(
            plans,
            rollout,
            terminal,
            step_losses.per_sample,
            loss,
            counted,
            state.report,
            ~is_finite,
        )
        # The report keeps the numbers of a skipped step, so that users see what went wrong.
        next_states: Any = rollout.states
        last_states: Any = state.curvature
        states: Any = tree_where(is_finite, next_states, last_states)
        batch_stats = state.batch_stats
        if losses is None:  # otherwise the user's own, returned as aux
            batch_stats = tree_where(is_finite, network_pass.batch_stats, state.batch_stats)
        step = zeros_unless(is_finite, self.net.merge(rollout.steps, params))
        return step, GTDDPState(states, report, batch_stats, state.placement)

    def _play_game(
        self,
        network_pass: NetworkPass,
        terminal: TerminalExpansion,
        params: PlayerTrees,
        running_gradient: PlayerTrees,
        state: GTDDPState,
        counted: CountedSamples,
        extra_args: Mapping[str, object],
    ) -> tuple[list[StagePlan], RolloutResult]:
        """The backward pass and the rollout."""
        plans = plan_stages(
            stage_indices(self.net.stages),
            network_pass.player_tapes(terminal.exact_loss.gradient, feedback=self.feedback),
            params,
            running_gradient,
            state.curvature,
            self.curvature,
            terminal,
            counted,
            extra_args,
            feedback=self.feedback,
            self_response=self.self_response,
            coupled_stages=self.net.coupled_stages,
        )
        if not self.feedback:
            return plans, open_loop_rollout(plans)
        observer = ROLLOUTS[self.rollout](network_pass, params)
        return plans, closed_loop_rollout(plans, params, terminal, counted.samples, observer)

    def _check_arguments(self, updates: Tree | None, state: GTDDPState, params: Tree) -> None:
        self._check_params(params)
        validation.check_state("gtddp", state, GTDDPState)
        validation.check_updates("gtddp", updates, params)
        refuse_lost_updates("gtddp", updates)
        # Without feedback nothing is predicted.
        if self.feedback:
            refuse_later_members("gtddp", INSIDE)

    def _check_sources(self, params: Tree, batch: Any, losses: Any, rngs: Any) -> None:
        if self.loss is None:
            validation.check_losses_argument("gtddp", params, batch, losses)
            if rngs is not None:
                raise ValueError(
                    "gtddp: update received both losses and rngs. Pass the keys inside losses: "
                    "net.apply(params, x, train=True, rngs=rngs)."
                )
        elif losses is not None:
            raise ValueError(
                "gtddp: a loss was given, and update received losses. Give one of them: "
                "gtddp(net, None, curvature) with tx.update(None, state, params, losses=...), or "
                "gtddp(net, loss, curvature) with batch=(inputs, targets)."
            )
        else:
            validation.check_required_arguments("gtddp", params=params, batch=batch)

    def _step_losses(
        self, state: GTDDPState, params: Tree, batch: Any, losses: Any, rngs: Any
    ) -> NetworkLosses:
        """Where the losses of a step come from."""
        if self.loss is None:
            return LossesThroughNetwork(self.net, losses, params, self.axis_name)
        return LossOnBatch(self.loss, batch, state.batch_stats, rngs)

    def _check_params(self, params: Tree) -> None:
        refuse_wrappers("gtddp", INSIDE, predicts=self.feedback)
        validation.refuse_masked_params("gtddp", params, INSIDE)
        validation.check_float_params("gtddp", params)


def _is_finite_step(
    params: PlayerTrees,
    terminal: TerminalExpansion,
    rollout: RolloutResult,
    network_pass: NetworkPass,
) -> Flag:
    """Whether all numbers that a step reads or writes are finite, on this device."""
    states: Any = rollout.states
    return all_finite(
        params,  # an infinite bias behind tanh leaves everything else finite
        terminal.exact_loss.value,
        rollout.sample_weights,
        first_order_changes(rollout),
        states,
        network_pass.batch_stats,
    )
