"""Methods that play at one point and are scored at another: the average of their iterates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import gtddp_jax as gt
from gtddp_lab.training.settings import LearningRate, TrainSettings
from gtddp_lab.training.state import BatchStats, Params, RunState, without_batch_stats
from gtddp_lab.training.steps import (
    Batch,
    MakeStep,
    ObserveWeights,
    SampleLoss,
    StepResult,
    TrainStep,
)

BuildOptimizer = Callable[
    [gt.Network, SampleLoss, TrainSettings, LearningRate, BatchStats],
    optax.GradientTransformation,
]
"""Builds an optimizer from a network, a loss, settings, the learning rate and batch statistics."""

Average = Callable[[Any, Params], Params]
"""Maps the state of an optimizer and the point at which it takes gradients to the average."""


class AveragingState(NamedTuple):
    """State of a method that is scored at its average.

    Attributes:
        inner: State of the optimizer.
        point: Parameters at which the next gradient is taken; those of the run are the average.
    """

    inner: Any
    point: Params


def keep_point(build: BuildOptimizer) -> BuildOptimizer:
    """Lets the state of an optimizer hold its point, and its rate stay constant.

    The average takes the place of a learning rate schedule.
    """

    def build_averaged(
        net: gt.Network,
        loss: SampleLoss,
        settings: TrainSettings,
        rate: LearningRate,
        batch_stats: BatchStats,
    ) -> optax.GradientTransformation:
        del rate
        optimizer = build(net, loss, settings, settings.learning_rate, batch_stats)
        inner = optax.with_extra_args_support(optimizer)

        def init(params: Any) -> AveragingState:
            return AveragingState(without_batch_stats(inner.init(params)), params)

        return optax.GradientTransformationExtraArgs(init, inner.update)

    return build_averaged


def step_at_point(make_step: MakeStep, average: Average) -> MakeStep:
    """Makes steps whose parameters are the average, while the layers play at the point."""

    def make_averaged_step(
        net: gt.Network,
        loss: SampleLoss,
        optimizer: optax.GradientTransformation,
        weight_decay: float = 0.0,
    ) -> TrainStep:
        take_step = make_step(net, loss, optimizer, weight_decay)

        def averaged_step(
            state: RunState,
            batch: Batch,
            key: jax.Array,
            observe: ObserveWeights | None = None,
        ) -> StepResult:
            inner, point = state.opt_state
            taken = take_step(state._replace(params=point, opt_state=inner), batch, key, observe)
            return taken._replace(
                params=average(taken.opt_state, taken.params),
                opt_state=AveragingState(taken.opt_state, taken.params),
            )

        return averaged_step

    return make_averaged_step
