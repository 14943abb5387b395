"""One training step: from a state and a batch to the next state."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from gtddp_jax.training import model, totals
from gtddp_jax.training.state import Params, TrainState, step_key

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""Maps outputs [batch, ...] and targets [batch, ...] to one loss per sample [batch]."""

Batch = tuple[jax.Array, jax.Array]
"""Inputs [batch, ...] and targets [batch]."""


class StepResult(NamedTuple):
    """What an optimizer makes of a batch.

    Attributes:
        params: Parameters after the step.
        opt_state: Optimizer state after the step.
        batch_stats: Running statistics after the step.
        loss: Scalar; mean loss of the batch under the parameters before the step.
        report: What the optimizer says about the step, by name; empty for plain optimizers.
    """

    params: Params
    opt_state: Any
    batch_stats: Any
    loss: jax.Array
    report: dict[str, jax.Array]


class Step(Protocol):
    """Maps a state, a batch and the step's random key to the step's result."""

    def __call__(
        self, state: TrainState, batch: Batch, key: jax.Array, observe: Any = None
    ) -> StepResult:
        """Takes the step; games give ``observe`` the weights [stages, batch] of the samples."""
        ...


StepMaker = Callable[[gt.Network, Loss, optax.GradientTransformation, float], Step]
"""Maps (network, loss per sample, optimizer, weight decay) to a step."""


def gradient_step(
    net: gt.Network, loss: Loss, tx: optax.GradientTransformation, weight_decay: float = 0.0
) -> Step:
    """Makes the ordinary step: the gradient of the batch's mean loss goes into ``tx``."""

    def step(state: TrainState, batch: Batch, key: jax.Array, observe: Any = None) -> StepResult:
        inputs, targets = batch

        def mean_loss(params: Params) -> tuple[jax.Array, Any]:
            outputs, statistics = model.train_outputs(net, params, state.batch_stats, inputs, key)
            return loss(outputs, targets).mean(), statistics

        value_and_gradient = jax.value_and_grad(mean_loss, has_aux=True)
        (value, statistics), gradient = value_and_gradient(state.params)
        running = running_cost(weight_decay, state.params)
        if running is not None:
            gradient = jax.tree.map(jnp.add, gradient, running)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return StepResult(params, opt_state, statistics, value, {})

    return step


def game_step(
    net: gt.Network, loss: Loss, tx: optax.GradientTransformation, weight_decay: float = 0.0
) -> Step:
    """Makes the step of the sequential game: ``tx`` knows network and loss, and takes the batch."""
    del loss
    play: Any = optax.with_extra_args_support(tx).update

    def step(state: TrainState, batch: Batch, key: jax.Array, observe: Any = None) -> StepResult:
        running = running_cost(weight_decay, state.params)
        rngs = model.keys(net, key) or None
        whole = state.opt_state._replace(batch_stats=state.batch_stats)
        updates, after = play(running, whole, state.params, batch=batch, rngs=rngs, observe=observe)
        params = optax.apply_updates(state.params, updates)
        value, report = _reported(after.report)
        return StepResult(params, after._replace(batch_stats={}), after.batch_stats, value, report)

    return step


def implicit_step(
    net: gt.Network, loss: Loss, tx: optax.GradientTransformation, weight_decay: float = 0.0
) -> Step:
    """Makes the step of the implicit game; statistics and keys go with the inputs."""
    del loss
    play: Any = optax.with_extra_args_support(tx).update
    plain = model.is_plain(net)

    def step(state: TrainState, batch: Batch, key: jax.Array, observe: Any = None) -> StepResult:
        inputs, targets = batch
        running = running_cost(weight_decay, state.params)
        given = batch if plain else ((inputs, state.batch_stats, key), targets)
        whole = state.opt_state if plain else state.opt_state._replace(aux=state.batch_stats)
        updates, after = play(running, whole, state.params, batch=given, observe=observe)
        statistics = state.batch_stats if plain else after.aux
        params = optax.apply_updates(state.params, updates)
        value, report = _reported(after.report)
        report |= after.prediction._asdict()
        return StepResult(
            params, after if plain else after._replace(aux={}), statistics, value, report
        )

    return step


def _reported(report: gt.Report) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss, and the rest by name."""
    figures = report._asdict()
    return figures.pop("loss"), figures


def running_cost(weight_decay: float, params: Params) -> Any:
    """The gradient of ``weight_decay / 2`` times the parameters' squares; None without it.

    Games take the gradient of the loss themselves, and this one as what they are given.
    """
    return None if not weight_decay else jax.tree.map(lambda p: weight_decay * p, params)


Advance = Callable[[TrainState, Batch], TrainState]
"""Maps a state and a batch to the next state."""


def advance(step: Step) -> Advance:
    """Lets a step carry the whole state: position and totals too."""

    def whole(state: TrainState, batch: Batch) -> TrainState:
        result = step(state, batch, step_key(state))
        return TrainState(
            params=result.params,
            opt_state=result.opt_state,
            batch_stats=result.batch_stats,
            step=state.step + 1,
            seed=state.seed,
            totals=totals.add(state.totals, result.loss, result.report),
        )

    return whole
