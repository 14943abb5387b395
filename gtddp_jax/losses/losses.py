"""`Losses`: what a function of the parameters returns to be trained by any game or any base."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from gtddp_jax.core.types import Number, Outputs, PerSample, Tree


@dataclasses.dataclass(frozen=True)
class Losses:
    """The losses of one batch, split at the model's outputs.

    The parameters reach the loss of a sample through `outputs` alone. A game weights each sample by
    the derivative of `per_sample` along the outputs, so `per_sample` must be nonlinear in them to
    have an effect: logits in `outputs`, the cross-entropy in `per_sample`.

    Args:
        outputs: the model's outputs, an array [B, ...] or a tree of such; [B, T, ...] where every
            token is a sample.
        per_sample: maps the outputs to one loss per sample, [B] or [B, T].
        mask: of the shape of the losses, boolean or weights >= 0. Samples with a mask of zero count
            nowhere; the mean is over the others, and 0 if there are none. None for all ones.
        regularizer: a scalar of the parameters, [], added to the mean loss. It is differentiated,
            but not weighted.
        aux: any tree of arrays to return to the caller.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> def losses(params, batch):
        ...     logits = batch["x"] @ params["w"]
        ...     return gt.Losses(
        ...         outputs=logits,
        ...         per_sample=lambda logits: cross_entropy(logits, batch["y"]),
        ...         regularizer=1e-4 * jnp.square(params["w"]).sum(),
        ...         aux={"logits": logits},
        ...     )
        >>> params = {"w": jnp.zeros((3, 2))}
        >>> batch = {"x": jnp.ones((4, 3)), "y": jnp.array([0, 1, 1, 0])}
        >>> (loss, aux), grads = gt.value_and_grad(losses)(params, batch)
        >>> round(float(loss), 4), aux["logits"].shape, grads["w"].shape
        (0.6931, (4, 2), (3, 2))
    """

    outputs: Outputs
    per_sample: Callable[[Any], PerSample]
    mask: Shaped[Array, "..."] | Shaped[np.ndarray, "..."] | None = None
    regularizer: Number = 0.0
    aux: Tree | None = None


LossesFn: TypeAlias = Callable[..., Losses]
"""`losses(params, *args, **kwargs) -> Losses`."""


def call_losses(losses_fn: LossesFn, *args: Any, **kwargs: Any) -> Losses:
    """Call a function of losses and check what it returns.

    Raises:
        ValueError: the result is not `Losses`, or a part of it has the wrong shape.
    """
    losses = losses_fn(*args, **kwargs)
    if not isinstance(losses, Losses):
        raise ValueError(
            f"losses(params, ...) must return gtddp_jax.Losses, got {type(losses).__name__}. "
            "Return gtddp_jax.Losses(outputs=logits, per_sample=lambda logits: loss_fn(logits, "
            "labels)): the model's outputs, and a function from them to one loss per sample."
        )
    if jnp.shape(losses.regularizer) != ():
        raise ValueError(
            "gtddp_jax.Losses: regularizer must be a scalar of the parameters, got shape "
            f"{jnp.shape(losses.regularizer)}. Sum it, and divide by what the mean is over."
        )
    return losses
