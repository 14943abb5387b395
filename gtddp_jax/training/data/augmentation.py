"""Changes to the images of a batch, drawn anew at every step, inside ``jit``.

Every sample has a key of its own, folded from the run's seed, the step and the sample's place in
the whole batch. The draw therefore does not depend on how the batch is spread over devices or
processes, and a resumed run draws what it would have drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]
"""Maps (key, image [height, width, channels]) to the changed image, of the same shape and dtype."""

PAD = 4
"""Pixels of black added to every side before a crop; the usual choice for CIFAR."""


def sample_keys(seed: ArrayLike, step: ArrayLike, batch: int, first: ArrayLike = 0) -> jax.Array:
    """Draws the key of every sample of a batch.

    Args:
        seed: The run's seed, maybe traced.
        step: Steps taken since the beginning of the run; an integer, maybe traced.
        batch: Number of samples.
        first: Place of the first of them in the whole batch, where this is a part of it.

    Returns:
        Keys, shape [batch].
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(batch))


def crop(key: jax.Array, image: jax.Array) -> jax.Array:
    """Moves the image by up to ``PAD`` pixels in each direction; what comes in is black."""
    padded = jnp.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
    row, column = jax.random.randint(key, (2,), 0, 2 * PAD + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors the image left to right, with probability one half."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def crop_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Crops and then flips: the standard augmentation of CIFAR."""
    for_crop, for_flip = jax.random.split(key)
    return flip(for_flip, crop(for_crop, image))


def unchanged(key: jax.Array, image: jax.Array) -> jax.Array:
    """Leaves the image as it is."""
    return image


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "crop": crop,
    "crop-flip": crop_flip,
}
"""Augmentations by name. Digits are not to be mirrored: for them ``"crop"``."""
