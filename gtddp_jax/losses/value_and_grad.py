"""`mean_loss` and `value_and_grad`: the same losses without a game."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from gtddp_jax.core.types import CallerTree, Scalar, Tree
from gtddp_jax.losses.constant_leaves import split_constants
from gtddp_jax.losses.losses import LossesFn, call_losses
from gtddp_jax.losses.per_sample import evaluate

MeanLossFn: TypeAlias = Callable[..., tuple[Scalar, CallerTree]]
"""`(params, *args, **kwargs) -> (loss, aux)`."""

ValueAndGradFn: TypeAlias = Callable[..., tuple[tuple[Scalar, CallerTree], CallerTree]]
"""`(params, *args, **kwargs) -> ((loss, aux), gradient)`."""


def mean_loss(losses: LossesFn) -> MeanLossFn:
    """The loss of a batch as a plain function, for all that expects one.

    It is what the steps of a game and `value_and_grad` report: to evaluate a model, to attack it,
    or to differentiate it by `dynamic_scale.value_and_grad`, `nnx.value_and_grad` or
    `equinox.filter_value_and_grad` with `has_aux=True`. Make it once, outside of the loop, before
    `jax.jit`: two such functions of the same losses are compiled separately.

    Args:
        losses: `losses(params, *args, **kwargs) -> Losses`.

    Returns:
        A function of the same arguments that returns `(loss, aux)`. `loss` is the mean over the
        samples that are not masked, 0 without any, plus the regularizer.

    Raises:
        ValueError: when called, if `losses` returns something else or a part has the wrong shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> def losses(w, x, y):
        ...     return gt.Losses(outputs=x @ w, per_sample=lambda outputs: (outputs - y) ** 2)
        >>> loss, aux = gt.mean_loss(losses)(jnp.zeros(3), jnp.ones((4, 3)), 1.0)
        >>> float(loss)
        1.0
    """

    def loss_and_aux(params: Any, *args: Any, **kwargs: Any) -> tuple[Scalar, Tree | None]:
        return evaluate(call_losses(losses, params, *args, **kwargs))

    return loss_and_aux


def value_and_grad(losses: LossesFn) -> ValueAndGradFn:
    """The mean loss and its gradient, as `jax.value_and_grad(loss_fn, has_aux=True)` gives them.

    Args:
        losses: `losses(params, *args, **kwargs) -> Losses`.

    Returns:
        A function of the same arguments that returns `((loss, aux), gradient)`, for an optax
        optimizer without a game. `loss` is the mean over the samples that are not masked, 0 without
        any, plus the regularizer. If `params` is a model with leaves that are no arrays, as those
        of Equinox, `gradient` has None at all but its floating-point arrays.

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

    def compute(params: Any, *args: Any, **kwargs: Any) -> Any:
        trained, put_back = split_constants(params)

        def loss_fn(trained: Any) -> tuple[Scalar, Tree | None]:
            return mean_loss(losses)(put_back(trained), *args, **kwargs)

        return jax.value_and_grad(loss_fn, has_aux=True)(trained)

    return compute
