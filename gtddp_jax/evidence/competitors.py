"""What else the same time buys: training methods of optax and of the literature.

Each is a `Method` like ours, so that data, networks, seeds and scores are the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import gtddp_jax as gt
from gtddp_jax.training import model
from gtddp_jax.training.methods import OPTIMIZERS, Method
from gtddp_jax.training.state import TrainState
from gtddp_jax.training.steps import Batch, Loss, Step, StepResult, running_cost

SAM_RADIUS = 0.05
"""Length of the adversarial step of `sam`, the default of Foret et al. (2021)."""

Gradient = Callable[[Any], tuple[tuple[jax.Array, Any], Any]]
"""Maps parameters to ((loss, running statistics), gradient) of one batch."""

Take = Callable[[Any, TrainState, Gradient], tuple[Any, Any, jax.Array, Any]]
"""Maps (optimizer, state, gradient) to (params, optimizer state, loss, running statistics)."""


def _method(name: str, label: str, build: Any, take: Take) -> Method:
    def make(
        net: gt.Network, loss: Loss, tx: optax.GradientTransformation, weight_decay: float = 0.0
    ) -> Step:
        def step(
            state: TrainState, batch: Batch, key: jax.Array, observe: Any = None
        ) -> StepResult:
            del observe  # there are no weights
            inputs, targets = batch

            def mean_loss(params: Any) -> tuple[jax.Array, Any]:
                outputs, stats = model.train_outputs(net, params, state.batch_stats, inputs, key)
                return loss(outputs, targets).mean(), stats

            def gradient(params: Any) -> Any:
                value, found = jax.value_and_grad(mean_loss, has_aux=True)(params)
                running = running_cost(weight_decay, params)
                return value, found if running is None else jax.tree.map(jnp.add, found, running)

            params, opt_state, value, stats = take(tx, state, gradient)
            return StepResult(params, opt_state, stats, value, {})

        return step

    def built(net: Any, loss: Any, settings: Any, rate: Any, batch_stats: Any) -> Any:
        return build(rate)

    return Method(name, label, built, make, weighs=False)


def _base(name: str) -> Any:
    plain = OPTIMIZERS[name].plain
    assert plain is not None, f"{name} is no optax optimizer"
    return plain


def extragradient(base: str) -> Method:
    """Averaged extragradient: the mean of the gradients here and after a trial step."""

    def take(tx: Any, state: TrainState, gradient: Gradient) -> Any:
        (value, stats), first = gradient(state.params)
        trial, _ = tx.update(first, state.opt_state, state.params)
        _, second = gradient(optax.apply_updates(state.params, trial))
        mean = jax.tree.map(lambda a, b: 0.5 * (a + b), first, second)
        updates, opt_state = tx.update(mean, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state, value, stats

    return _method(f"extragradient-{base}", f"{OPTIMIZERS[base].label}", _base(base), take)


def sam(base: str) -> Method:
    """Sharpness-aware minimisation (`optax.contrib.sam`)."""

    def build(rate: Any) -> Any:
        adversary = optax.chain(contrib.normalize(), optax.sgd(SAM_RADIUS))
        return contrib.sam(_base(base)(rate), adversary, opaque_mode=True)

    def take(tx: Any, state: TrainState, gradient: Gradient) -> Any:
        (value, stats), first = gradient(state.params)
        updates, opt_state = tx.update(
            first, state.opt_state, state.params, grad_fn=lambda params, _: gradient(params)[1]
        )
        return optax.apply_updates(state.params, updates), opt_state, value, stats

    return _method(f"sam-{base}", OPTIMIZERS[base].label, build, take)


def _plainly(tx: Any, state: TrainState, gradient: Gradient) -> Any:
    (value, stats), found = gradient(state.params)
    updates, opt_state = tx.update(found, state.opt_state, state.params, value=value)
    return optax.apply_updates(state.params, updates), opt_state, value, stats


def momo_adam(base: str) -> Method:
    """Adam with MoMo's adaptive rate (`optax.contrib.momo_adam`); the rate is its upper bound."""
    return _method(f"momo-{base}", "MoMo-Adam", contrib.momo_adam, _plainly)


def prodigy(base: str) -> Method:
    """Prodigy (`optax.contrib.prodigy`), which finds its own rate: the cell's is not used."""

    def build(rate: Any) -> Any:
        return optax.with_extra_args_support(contrib.prodigy())

    return _method(f"prodigy-{base}", "Prodigy", build, _plainly)


def schedule_free(base: str) -> Method:
    """Schedule-free AdamW (`optax.contrib.schedule_free_adamw`), scored at its average.

    The run's parameters are the average x; the point y where gradients are taken is kept in the
    optimizer's state.
    """

    def build(rate: Any) -> Any:
        tx = contrib.schedule_free_adamw(rate)
        return optax.GradientTransformation(lambda params: (tx.init(params), params), tx.update)

    def take(tx: Any, state: TrainState, gradient: Gradient) -> Any:
        inner, point = state.opt_state
        (value, stats), found = gradient(point)
        updates, inner = tx.update(found, inner, point)
        point = optax.apply_updates(point, updates)
        return contrib.schedule_free_eval_params(inner, point), (inner, point), value, stats

    return _method(f"schedule-free-{base}", "schedule-free AdamW", build, take)
