"""One training step: from parameters, optimizer state and a batch to the next ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import gtddp_jax as gt

Params = Any
"""A tree of parameter arrays."""

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""Maps outputs [batch, ...] and targets [batch, ...] to one loss per sample [batch]."""


class StepResult(NamedTuple):
    """What one step leaves behind.

    Attributes:
        params: Parameters after the step.
        state: Optimizer state after the step.
        loss: Scalar; mean loss of the batch under the parameters before the step.
        report: What the optimizer says about the step, by name; empty for plain optimizers.
    """

    params: Params
    state: optax.OptState
    loss: jax.Array
    report: dict[str, jax.Array]


NO_RUNNING_COST: Any = None
"""In place of a gradient: games take that of the loss themselves, and add this one to it."""

Step = Callable[[Params, Any, jax.Array, jax.Array], StepResult]
"""Maps (params, state, inputs [batch, ...], targets [batch]) to the step's result."""

StepMaker = Callable[[gt.Network, Loss, optax.GradientTransformation], Step]
"""Maps (network, loss per sample, optimizer) to a step."""


def gradient_step(net: gt.Network, loss: Loss, tx: optax.GradientTransformation) -> Step:
    """Makes the ordinary step: the gradient of the batch's mean loss goes into ``tx``."""

    def mean_loss(params: Params, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return loss(net.apply(params, inputs), targets).mean()

    def step(params: Params, state: Any, inputs: jax.Array, targets: jax.Array) -> StepResult:
        value, gradient = jax.value_and_grad(mean_loss)(params, inputs, targets)
        updates, state = tx.update(gradient, state, params)
        return StepResult(optax.apply_updates(params, updates), state, value, {})

    return step


def game_step(net: gt.Network, loss: Loss, tx: optax.GradientTransformation) -> Step:
    """Makes the step of a game: ``tx`` knows network and loss, and takes the batch itself."""
    play = optax.with_extra_args_support(tx).update

    def step(params: Params, state: Any, inputs: jax.Array, targets: jax.Array) -> StepResult:
        updates, state = play(NO_RUNNING_COST, state, params, batch=(inputs, targets))
        report = state.report._asdict()
        if hasattr(state, "prediction"):
            report |= state.prediction._asdict()
        value = report.pop("loss")
        return StepResult(optax.apply_updates(params, updates), state, value, report)

    return step
