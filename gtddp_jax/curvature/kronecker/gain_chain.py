"""From the preconditioned gradient to the open gain: momentum, weight decay, learning rate."""

import optax

from gtddp_jax.core.types import Number, Rate


def gain_transformations(
    learning_rate: Rate, momentum: Number | None, nesterov: bool, weight_decay: Number | None
) -> list[optax.GradientTransformation]:
    """The transformations, in the order of an `optax.chain`.

    Args:
        learning_rate: eta.
        momentum: decay of the momentum, or None.
        nesterov: whether to use Nesterov momentum.
        weight_decay: decoupled weight decay, or None.
    """
    transformations: list[optax.GradientTransformation] = []
    if momentum is not None:
        transformations.append(optax.trace(momentum, nesterov))
    if weight_decay is not None:
        transformations.append(optax.add_decayed_weights(weight_decay))
    # Last, so that the weight decay is multiplied by it too; it also makes the step a descent.
    return [*transformations, optax.scale_by_learning_rate(learning_rate)]
