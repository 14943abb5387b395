"""Random changes of the training images, drawn inside ``jit`` at every step.

Each sample has its own key, folded from the run's seed, the step and the sample's position in the
global batch. The draw is therefore independent of how the batch is distributed over devices and
processes, and a resumed run repeats the draws of an uninterrupted one.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Augmentation: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""Maps (key, image [height, width, channels]) to a changed image of the same shape and dtype."""

CROP_PADDING = 4
"""Black pixels added on every side before a crop; the usual choice for CIFAR."""


def sample_keys(
    seed: ArrayLike, step: ArrayLike, batch_size: int, first: ArrayLike = 0
) -> jax.Array:
    """Derive the key of every sample of a batch.

    Args:
        seed: Seed of the run; may be traced.
        step: Number of steps since the beginning of the run; may be traced.
        batch_size: Number of samples.
        first: Position of the first sample in the global batch, if this is a part of it.

    Returns:
        Keys, shape [batch].
    """
    # Folding seed, step and position makes the draw independent of any generator state.
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    positions = first + jnp.arange(batch_size)
    return jax.vmap(lambda position: jax.random.fold_in(step_key, position))(positions)


def random_crop(key: jax.Array, image: jax.Array) -> jax.Array:
    """Shift the image by up to ``CROP_PADDING`` pixels in each direction and fill with black."""
    padding = ((CROP_PADDING, CROP_PADDING), (CROP_PADDING, CROP_PADDING), (0, 0))
    # All (2 CROP_PADDING + 1)^2 windows of the padded image are equally likely.
    row, column = jax.random.randint(key, (2,), 0, 2 * CROP_PADDING + 1)
    return jax.lax.dynamic_slice(jnp.pad(image, padding), (row, column, 0), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirror the image left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_crop_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Crop and flip at random: the standard augmentation for CIFAR."""
    # Separate keys, so that crop and flip are independent.
    crop_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_crop(crop_key, image))


def no_augmentation(key: jax.Array, image: jax.Array) -> jax.Array:
    """Return the image unchanged."""
    del key
    return image


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": no_augmentation,
    "crop": random_crop,
    "crop-flip": random_crop_flip,
}
"""Augmentations by name. Mirroring changes the class of digits, so use ``"crop"`` for them."""
