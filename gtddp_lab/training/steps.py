"""One training step: from a state and a batch to the next state."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from gtddp_lab.training import model_call, totals
from gtddp_lab.training.state import BatchStats, Params, RunState, step_key

SampleLoss = Callable[[jax.Array, jax.Array], jax.Array]
"""Maps outputs [batch, ...] and targets [batch, ...] to the loss of each sample, [batch]."""

Batch = tuple[jax.Array, jax.Array]
"""Inputs [batch, ...] and targets [batch]."""

ObserveWeights = Callable[[jax.Array], object]
"""Receives the weights [stages, batch] of the samples while a step is traced."""


class StepResult(NamedTuple):
    """Result of one step.

    Attributes:
        params: Parameters after the step.
        opt_state: Optimizer state after the step.
        batch_stats: Batch statistics after the step.
        loss: Scalar; mean loss of the batch at the parameters before the step.
        report: Diagnostics of the step by name; empty for base optimizers.
    """

    params: Params
    opt_state: Any
    batch_stats: BatchStats
    loss: jax.Array
    report: dict[str, jax.Array]


class TrainStep(Protocol):
    """Maps a state, a batch and the random key of the step to the result of the step."""

    def __call__(
        self,
        state: RunState,
        batch: Batch,
        key: jax.Array,
        observe: ObserveWeights | None = None,
    ) -> StepResult:
        """Takes the step; a game passes the weights of the samples to ``observe``."""
        ...


MakeStep = Callable[[gt.Network, SampleLoss, optax.GradientTransformation, float], TrainStep]
"""Maps (network, loss per sample, optimizer, weight decay) to a step."""


def make_gradient_step(
    net: gt.Network,
    loss: SampleLoss,
    optimizer: optax.GradientTransformation,
    weight_decay: float = 0.0,
) -> TrainStep:
    """Makes the ordinary step: ``optimizer`` receives the gradient of the batch's mean loss."""

    def gradient_step(
        state: RunState,
        batch: Batch,
        key: jax.Array,
        observe: ObserveWeights | None = None,
    ) -> StepResult:
        inputs, targets = batch

        def mean_loss(params: Params) -> tuple[jax.Array, BatchStats]:
            outputs, statistics = model_call.train_outputs(
                net, params, state.batch_stats, inputs, key
            )
            return loss(outputs, targets).mean(), statistics

        value_and_gradient = jax.value_and_grad(mean_loss, has_aux=True)
        (value, statistics), gradient = value_and_gradient(state.params)
        running_gradient = running_cost_gradient(weight_decay, state.params)
        if running_gradient is not None:  # the running cost, in the base as in the games
            gradient = jax.tree.map(jnp.add, gradient, running_gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = _updated_params(state.params, updates)
        return StepResult(params, opt_state, statistics, value, {})

    return gradient_step


def make_sequential_step(
    net: gt.Network,
    loss: SampleLoss,
    optimizer: optax.GradientTransformation,
    weight_decay: float = 0.0,
) -> TrainStep:
    """Makes the step of the sequential game: ``optimizer`` holds network and loss."""
    del loss
    update: Any = optax.with_extra_args_support(optimizer).update

    def sequential_step(
        state: RunState,
        batch: Batch,
        key: jax.Array,
        observe: ObserveWeights | None = None,
    ) -> StepResult:
        running_gradient = running_cost_gradient(weight_decay, state.params)
        rngs = model_call.collection_keys(net, key) or None  # none for a deterministic network
        # The train state stores batch statistics once; the optimizer expects them in its own state.
        opt_state = state.opt_state._replace(batch_stats=state.batch_stats)
        updates, opt_state = update(
            running_gradient, opt_state, state.params, batch=batch, rngs=rngs, observe=observe
        )
        value, report = _split_report(opt_state.report)
        return StepResult(
            params=_updated_params(state.params, updates),
            opt_state=opt_state._replace(batch_stats={}),
            batch_stats=opt_state.batch_stats,
            loss=value,
            report=report,
        )

    return sequential_step


def make_implicit_step(
    net: gt.Network,
    loss: SampleLoss,
    optimizer: optax.GradientTransformation,
    weight_decay: float = 0.0,
) -> TrainStep:
    """Makes the step of the implicit game; batch statistics and keys travel with the inputs."""
    del loss
    update: Any = optax.with_extra_args_support(optimizer).update
    stateless = model_call.is_stateless(net)

    def implicit_step(
        state: RunState,
        batch: Batch,
        key: jax.Array,
        observe: ObserveWeights | None = None,
    ) -> StepResult:
        inputs, targets = batch
        running_gradient = running_cost_gradient(weight_decay, state.params)
        game_batch = batch if stateless else ((inputs, state.batch_stats, key), targets)
        opt_state = state.opt_state
        if not stateless:  # stored once, as in the sequential step
            opt_state = opt_state._replace(aux=state.batch_stats)
        updates, opt_state = update(
            running_gradient, opt_state, state.params, batch=game_batch, observe=observe
        )
        value, report = _split_report(opt_state.report)
        return StepResult(
            params=_updated_params(state.params, updates),
            opt_state=opt_state if stateless else opt_state._replace(aux={}),
            batch_stats=state.batch_stats if stateless else opt_state.aux,
            loss=value,
            report=report,
        )

    return implicit_step


def _updated_params(params: Params, updates: optax.Updates) -> Params:
    updated: Any = optax.apply_updates(params, updates)
    return updated


def _split_report(report: gt.Report) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss, and all other diagnostics that the game has, by name."""
    diagnostics = {name: value for name, value in report._asdict().items() if value is not None}
    return diagnostics.pop("loss"), diagnostics


def running_cost_gradient(weight_decay: float, params: Params) -> Params | None:
    """The gradient of ``weight_decay / 2`` times the squared norm of the parameters.

    Games compute the gradient of the loss themselves and take this one as their input.

    Returns:
        None without weight decay.
    """
    if not weight_decay:
        return None
    return jax.tree.map(lambda param: weight_decay * param, params)


AdvanceState = Callable[[RunState, Batch], RunState]
"""Maps a state and a batch to the next state."""


def advance_state(step: TrainStep) -> AdvanceState:
    """Extends a step to the whole state, including position and totals."""

    def next_state(state: RunState, batch: Batch) -> RunState:
        result = step(state, batch, step_key(state))
        return RunState(
            params=result.params,
            opt_state=result.opt_state,
            batch_stats=result.batch_stats,
            step=state.step + 1,
            seed=state.seed,
            totals=totals.add_step(state.totals, result.loss, result.report),
        )

    return next_state
