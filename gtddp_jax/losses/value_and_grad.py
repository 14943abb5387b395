"""`value_and_grad`: the same losses for a base optimizer without a game."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from gtddp_jax.core.types import Scalar, Tree
from gtddp_jax.losses.losses import LossesFn, call_losses
from gtddp_jax.losses.per_sample import evaluate

ValueAndGradFn: TypeAlias = Callable[..., tuple[tuple[Scalar, Tree | None], Tree]]
"""`(params, *args, **kwargs) -> ((loss, aux), gradient)`."""


def mean_loss(losses: LossesFn) -> Callable[..., tuple[Scalar, Tree | None]]:
    """`(params, *args, **kwargs) -> (loss, aux)`: the mean over samples plus the regularizer."""

    def loss_and_aux(params: Tree, *args: Any, **kwargs: Any) -> tuple[Scalar, Tree | None]:
        return evaluate(call_losses(losses, params, *args, **kwargs))

    return loss_and_aux


def value_and_grad(losses: LossesFn) -> ValueAndGradFn:
    """The mean loss and its gradient, as `jax.value_and_grad(loss_fn, has_aux=True)` gives them.

    Args:
        losses: `losses(params, *args, **kwargs) -> Losses`.

    Returns:
        A function of the same arguments that returns `((loss, aux), gradient)`, for an optax
        optimizer without a game. `loss` is the mean over the samples that are not masked, plus the
        regularizer.

    Raises:
        ValueError: when called, if `losses` returns something else or a part has the wrong shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> def losses(w, x, y):
        ...     return gt.Losses(outputs=x @ w, per_sample=lambda outputs: (outputs - y) ** 2)
        >>> (loss, aux), gradient = gt.value_and_grad(losses)(jnp.zeros(3), jnp.ones((4, 3)), 1.0)
        >>> float(loss), gradient.tolist()
        (1.0, [-2.0, -2.0, -2.0])
    """
    return jax.value_and_grad(mean_loss(losses), has_aux=True)
