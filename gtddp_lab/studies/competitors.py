"""Competitors of the games: training methods from optax and the literature.

Each is a `TrainingMethod`, so that data, networks, seeds and scores are those of the games.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import gtddp_jax as gt
from gtddp_lab.training import model_call
from gtddp_lab.training.methods import OPTIMIZERS, TrainingMethod
from gtddp_lab.training.settings import LearningRate, TrainSettings
from gtddp_lab.training.state import BatchStats, Params, RunState
from gtddp_lab.training.steps import (
    Batch,
    ObserveWeights,
    SampleLoss,
    StepResult,
    TrainStep,
    running_cost_gradient,
)

SAM_RADIUS = 0.05
"""Length of the adversarial step of SAM, the default of Foret et al. (2021)."""

LossGradient: TypeAlias = Callable[[Params], tuple[tuple[jax.Array, BatchStats], Params]]
"""Maps parameters to ((loss, batch statistics), gradient) on one batch."""

StepOutcome: TypeAlias = tuple[Params, Any, jax.Array, BatchStats]
"""Parameters, optimizer state, loss, batch statistics."""

BuildTransformation: TypeAlias = Callable[[LearningRate], optax.GradientTransformation]


class TakeStep(Protocol):
    """Makes a step, given an optimizer, a state and the gradient of the batch's mean loss."""

    def __call__(self, tx: Any, state: RunState, gradient: LossGradient) -> StepOutcome:
        """Return parameters, optimizer state, loss and batch statistics after the step."""
        ...


def _competitor(
    name: str, label: str, build: BuildTransformation, take_step: TakeStep
) -> TrainingMethod:
    def make_step(
        net: gt.Network,
        loss: SampleLoss,
        tx: optax.GradientTransformation,
        weight_decay: float = 0.0,
    ) -> TrainStep:
        def step(
            state: RunState,
            batch: Batch,
            key: jax.Array,
            observe: ObserveWeights | None = None,
        ) -> StepResult:
            del observe  # competitors have no sample weights
            inputs, targets = batch

            def mean_loss(params: Params) -> tuple[jax.Array, BatchStats]:
                outputs, batch_stats = model_call.train_outputs(
                    net, params, state.batch_stats, inputs, key
                )
                return loss(outputs, targets).mean(), batch_stats

            def loss_gradient(params: Params) -> tuple[tuple[jax.Array, BatchStats], Params]:
                value, gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
                running_gradient = running_cost_gradient(weight_decay, params)
                if running_gradient is not None:
                    gradient = jax.tree.map(jnp.add, gradient, running_gradient)
                return value, gradient

            params, opt_state, value, batch_stats = take_step(tx, state, loss_gradient)
            return StepResult(params, opt_state, batch_stats, value, {})

        return step

    def build_optimizer(
        net: gt.Network,
        loss: SampleLoss,
        settings: TrainSettings,
        rate: LearningRate,
        batch_stats: BatchStats,
    ) -> optax.GradientTransformation:
        del net, loss, settings, batch_stats
        return build(rate)

    return TrainingMethod(name, label, build_optimizer, make_step, has_sample_weights=False)


def _updated_params(params: Params, updates: Any) -> Params:
    # optax types parameters as any tree; here they are trees by player.
    new_params: Any = optax.apply_updates(params, updates)
    return new_params


def _optax_base(name: str) -> BuildTransformation:
    build = OPTIMIZERS[name].build_base
    assert build is not None, f"{name} is not an optax optimizer"
    return build


def extragradient_method(base: str) -> TrainingMethod:
    """Averaged extragradient: the mean of the gradients here and after a trial step."""

    def take_step(tx: Any, state: RunState, gradient: LossGradient) -> StepOutcome:
        (value, batch_stats), first = gradient(state.params)
        # The state of the trial step is dropped: only its gradient is used.
        trial, _ = tx.update(first, state.opt_state, state.params)
        _, second = gradient(_updated_params(state.params, trial))
        mean = jax.tree.map(lambda a, b: 0.5 * (a + b), first, second)
        updates, opt_state = tx.update(mean, state.opt_state, state.params)
        return _updated_params(state.params, updates), opt_state, value, batch_stats

    label = OPTIMIZERS[base].label
    return _competitor(f"extragradient-{base}", label, _optax_base(base), take_step)


def sam_method(base: str) -> TrainingMethod:
    """Sharpness-aware minimisation (`optax.contrib.sam`)."""

    def build(rate: LearningRate) -> optax.GradientTransformation:
        adversary = optax.chain(contrib.normalize(), optax.sgd(SAM_RADIUS))
        return contrib.sam(_optax_base(base)(rate), adversary, opaque_mode=True)

    def take_step(tx: Any, state: RunState, gradient: LossGradient) -> StepOutcome:
        (value, batch_stats), first = gradient(state.params)
        updates, opt_state = tx.update(
            first, state.opt_state, state.params, grad_fn=lambda params, _: gradient(params)[1]
        )
        return _updated_params(state.params, updates), opt_state, value, batch_stats

    return _competitor(f"sam-{base}", OPTIMIZERS[base].label, build, take_step)


def _plain_step(tx: Any, state: RunState, gradient: LossGradient) -> StepOutcome:
    (value, batch_stats), first = gradient(state.params)
    updates, opt_state = tx.update(first, state.opt_state, state.params, value=value)
    return _updated_params(state.params, updates), opt_state, value, batch_stats


def momo_adam_method(base: str) -> TrainingMethod:
    """Adam with MoMo's adaptive rate (`optax.contrib.momo_adam`), bounded by the cell's rate."""
    return _competitor(f"momo-{base}", "MoMo-Adam", contrib.momo_adam, _plain_step)
