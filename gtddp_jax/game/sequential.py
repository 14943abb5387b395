"""One step of the sequential game: forward, backward, rollout, judgement."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core import arguments
from gtddp_jax.core.alignment import check_alignment
from gtddp_jax.core.report import Observe, Report, empty_report
from gtddp_jax.core.safety import all_finite, choose, zero_unless
from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import AxisName, Loss, Outputs, PerSample, Tree
from gtddp_jax.curvature.base import Curvature, State
from gtddp_jax.game.backward import StagePlan, places, plan
from gtddp_jax.game.rollout import ROLLOUTS, Rolled, open_loop, roll
from gtddp_jax.game.summary import first_order_changes, summarise
from gtddp_jax.network.protocol import Pass, Playable, by_stage
from gtddp_jax.terminal import Expansion, Terminal


class GTDDPState(NamedTuple):
    """State of `gtddp`.

    Attributes:
        curvature: the base method's state, one a stage.
        report: figures of the last step.
        batch_stats: running statistics `{layer: {"mean": [features], "var": [features]}}` after the
            last step that was taken; empty without `nn.BatchNorm`.
    """

    curvature: tuple[State, ...]
    report: Report
    batch_stats: Tree


@dataclasses.dataclass(frozen=True)
class Game:
    """The options of `gtddp`, checked; see there."""

    net: Playable
    loss: Loss
    curvature: Curvature
    feedback: bool
    terminal: Terminal
    rollout: str
    axis_name: AxisName
    own_curvature: bool

    def __post_init__(self) -> None:
        if not isinstance(self.net, Playable):
            raise ValueError(
                "gtddp: net must be a gtddp_jax.Network or made by gtddp_jax.from_flax, got "
                f"{type(self.net).__name__}."
            )
        if not isinstance(self.curvature, Curvature):
            raise ValueError(
                "gtddp: curvature must come from gtddp_jax.curvature, got "
                f"{type(self.curvature).__name__}; an optax transformation goes in as "
                "gtddp_jax.curvature.from_optax(tx)."
            )
        if not isinstance(self.terminal, Terminal):
            raise ValueError(
                f"gtddp: terminal must come from gtddp_jax.terminal, got {self.terminal!r}; for "
                "example gtddp_jax.terminal.line(max_shift=1.0)."
            )
        if self.rollout not in ROLLOUTS:
            raise ValueError(f"Invalid rollout: {self.rollout!r}. Supported: {tuple(ROLLOUTS)}.")

    def init(self, params: Tree, batch_stats: Tree) -> GTDDPState:
        """The state before the first step, with these running statistics."""
        stages = self.net.stages
        own = by_stage(stages, self._split(params))
        states = tuple(
            self.curvature.init(players, place)
            for players, place in zip(own, places(stages), strict=True)
        )
        report = empty_report(len(stages), ratios=len(stages))
        return GTDDPState(states, report, jax.tree.map(jnp.copy, batch_stats))

    def update(
        self,
        updates: Tree,
        state: GTDDPState,
        params: Tree,
        batch: Any,
        rngs: Any,
        observe: Observe | None = None,
    ) -> tuple[Tree, GTDDPState]:
        """One step, see `optax.GradientTransformationExtraArgs`."""
        arguments.require("gtddp", params=params, batch=batch)
        inputs, targets = arguments.split_batch("gtddp", batch)
        own = self._split(params)
        running = jax.tree.map(jnp.zeros_like, own) if updates is None else self.net.split(updates)
        arguments.refuse_empty("gtddp", self.net.batch_size(inputs))
        samples = Samples(self.net.batch_size(inputs), self.axis_name)
        own = samples.local_copy(own)
        played = self.net.forward(
            own,
            inputs,
            state.batch_stats,
            samples.own_keys(rngs),
            samples,
            replayed=self.feedback and ROLLOUTS[self.rollout].replays,
        )

        def loss_of(outputs: Outputs) -> PerSample:
            return self.loss(outputs, targets)

        model = self.terminal.expand(loss_of, played.outputs)
        check_alignment(self.loss, played.outputs, targets)
        plans, rolled = self._play(played, model, own, running, state, samples)
        if observe is not None:
            observe(rolled.weights)
        ok = samples.all(
            all_finite(
                own,  # an infinite bias behind tanh leaves everything else finite
                model.line.value,
                rolled.weights,
                first_order_changes(rolled),
                rolled.states,
                played.batch_stats,
            )
        )
        report = summarise(plans, rolled, model, loss_of, samples, state.report, ~ok)
        return zero_unless(ok, self.net.merge(rolled.steps, params)), GTDDPState(
            choose(ok, rolled.states, state.curvature),
            report,
            choose(ok, played.batch_stats, state.batch_stats),
        )

    def _play(
        self,
        played: Pass,
        model: Expansion,
        params: Tree,
        running: Tree,
        state: GTDDPState,
        samples: Samples,
    ) -> tuple[list[StagePlan], Rolled]:
        plans = plan(
            places(self.net.stages),
            played.moves(model.line.gradient, feedback=self.feedback),
            params,
            running,
            state.curvature,
            self.curvature,
            model,
            samples,
            feedback=self.feedback,
            own_curvature=self.own_curvature,
            coupled=self.net.coupled_stages,
        )
        if not self.feedback:
            return plans, open_loop(plans)
        observer = ROLLOUTS[self.rollout](played, params)
        return plans, roll(plans, params, model, samples, observer)

    def _split(self, params: Tree) -> dict[str, Any]:
        arguments.refuse_multi_steps(
            "gtddp", "gtddp_jax.curvature.from_optax(optax.MultiSteps(optax.adam(1e-3), 4))"
        )
        arguments.refuse_masked("gtddp", params)
        arguments.refuse_other_numbers("gtddp", params)
        return self.net.split(params)
