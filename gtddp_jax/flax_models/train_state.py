"""`TrainState`: Flax's train state for linen models, with a step by a function of losses."""

from collections.abc import Mapping
from typing import TypeVar, cast

import optax
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

from gtddp_jax.losses.losses import LossesFn
from gtddp_jax.losses.training_step import StepOutput, value_and_update

State = TypeVar("State", bound=train_state.TrainState)


def apply_losses(
    state: State, losses: LossesFn, *args: object, **kwargs: object
) -> tuple[State, StepOutput]:
    """Make a step of a train state by a function of losses; use under `jax.jit`.

    It stands where `jax.value_and_grad` and `state.apply_gradients(grads=grads)` stood.

    Args:
        state: a `flax.training.train_state.TrainState`, of Flax or `gtddp_jax.linen`, or of a
            class that derives from it, with any `tx` of `gtddp_jax.value_and_update`.
        losses: `losses(params, *args, **kwargs) -> gtddp_jax.Losses`.
        args: passed on to `losses`.
        kwargs: passed on to `losses`.

    Returns:
        The state with new `step`, `params` and `opt_state`, and the loss, aux and report of the
        step. Other fields, such as batch statistics, come from aux:
        `state.replace(batch_stats=output.aux["batch_stats"])`.

    Raises:
        ValueError: the parameters contain a collection that gradients overwrite (fp8).

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from flax.training.train_state import TrainState
        >>> import gtddp_jax as gt
        >>> def losses(params, x, y):
        ...     return gt.Losses(x @ params["w"], lambda outputs: (outputs - y) ** 2)
        >>> params, tx = {"w": jnp.zeros(3)}, gt.implicit(optax.adam(1e-3))
        >>> state = TrainState.create(apply_fn=None, params=params, tx=tx)
        >>> step = jax.jit(lambda state, x, y: gt.linen.apply_losses(state, losses, x, y))
        >>> state, output = step(state, jnp.ones((4, 3)), jnp.ones(4))
        >>> int(state.step), float(output.loss)
        (1, 1.0)
    """
    if isinstance(state.params, Mapping) and OVERWRITE_WITH_GRADIENT in state.params:
        raise ValueError(
            f"TrainState.apply_losses: the parameters contain {OVERWRITE_WITH_GRADIENT!r}, "
            "the scales of fp8 layers, which gradients replace instead of changing. Use an "
            "optimizer without a game and state.apply_gradients(grads=...)."
        )
    output, updates, opt_state = value_and_update(state.tx, losses)(
        state.params, state.opt_state, *args, **kwargs
    )
    params = optax.apply_updates(state.params, updates)
    changed = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return cast(State, changed), output


class TrainState(train_state.TrainState):
    """`flax.training.train_state.TrainState` that steps by a function of losses.

    Everything else is as in Flax: `create`, `replace`, `apply_gradients` for an optimizer without a
    game, and subclasses with more fields.

    Attributes:
        step: the number of steps made; an integer or an array [].
        apply_fn: usually `model.apply`; not used by the step.
        params: the parameters.
        tx: a game, an `optax.chain` with a game, or any optax optimizer.
        opt_state: the state of `tx`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> model, x, y = nn.Dense(2), jnp.ones((4, 3)), jnp.array([0, 1, 1, 0])
        >>> state = gt.linen.TrainState.create(
        ...     apply_fn=model.apply,
        ...     params=model.init(jax.random.key(0), x)["params"],
        ...     tx=gt.implicit(optax.adam(1e-3)),
        ... )
        >>> @jax.jit
        ... def train_step(state, x, y):
        ...     def losses(params):
        ...         logits = state.apply_fn({"params": params}, x)
        ...         return gt.Losses(logits, lambda logits: cross_entropy(logits, y))
        ...     return state.apply_losses(losses)
        >>> state, output = train_step(state, x, y)
        >>> int(state.step), output.loss.shape
        (1, ())
    """

    def apply_losses(
        self: State, losses: LossesFn, *args: object, **kwargs: object
    ) -> tuple[State, StepOutput]:
        """Make a step as `gtddp_jax.linen.apply_losses` does; use under `jax.jit`.

        Args:
            losses: `losses(params, *args, **kwargs) -> gtddp_jax.Losses`.
            args: passed on to `losses`.
            kwargs: passed on to `losses`.

        Returns:
            The state with new `step`, `params` and `opt_state`, and the loss, aux and report of the
            step. Other fields, such as batch statistics, come from aux:
            `state.replace(batch_stats=output.aux["batch_stats"])`.

        Raises:
            ValueError: the parameters contain a collection that gradients overwrite (fp8).
        """
        return apply_losses(self, losses, *args, **kwargs)
