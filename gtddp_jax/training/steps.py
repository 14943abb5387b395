"""One training step: from a state and a batch to the next state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import gtddp_jax as gt
from gtddp_jax.training import totals
from gtddp_jax.training.state import Params, TrainState

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


Step = Callable[[TrainState, Batch], StepResult]
"""Maps a state and a batch to the step's result."""

StepMaker = Callable[[gt.Network, Loss, optax.GradientTransformation, float], Step]
"""Maps (network, loss per sample, optimizer, weight decay) to a step."""


def gradient_step(
    net: gt.Network, loss: Loss, tx: optax.GradientTransformation, weight_decay: float = 0.0
) -> Step:
    """Makes the ordinary step: the gradient of the batch's mean loss goes into ``tx``."""

    def mean_loss(params: Params, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return loss(net.apply(params, inputs), targets).mean()

    def step(state: TrainState, batch: Batch) -> StepResult:
        value, gradient = jax.value_and_grad(mean_loss)(state.params, *batch)
        running = running_cost(weight_decay, state.params)
        if running is not None:
            gradient = jax.tree.map(lambda g, r: g + r, gradient, running)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return StepResult(params, opt_state, state.batch_stats, value, {})

    return step


def game_step(
    net: gt.Network, loss: Loss, tx: optax.GradientTransformation, weight_decay: float = 0.0
) -> Step:
    """Makes the step of a game: ``tx`` knows network and loss, and takes the batch itself."""
    play = optax.with_extra_args_support(tx).update

    def step(state: TrainState, batch: Batch) -> StepResult:
        running = running_cost(weight_decay, state.params)
        updates, opt_state = play(running, state.opt_state, state.params, batch=batch)
        report = opt_state.report._asdict()
        if hasattr(opt_state, "prediction"):
            report |= opt_state.prediction._asdict()
        value = report.pop("loss")
        params = optax.apply_updates(state.params, updates)
        return StepResult(params, opt_state, state.batch_stats, value, report)

    return step


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
        result = step(state, batch)
        return TrainState(
            params=result.params,
            opt_state=result.opt_state,
            batch_stats=result.batch_stats,
            step=state.step + 1,
            seed=state.seed,
            totals=totals.add(state.totals, result.loss, result.report),
        )

    return whole
