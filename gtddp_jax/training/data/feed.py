"""From a data set to the batch that a step sees: data on the device, the rest inside ``jit``."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gtddp_jax.training.data.augmentation import AUGMENTATIONS, sample_keys, unchanged
from gtddp_jax.training.data.dataset import Dataset
from gtddp_jax.training.distributed import put
from gtddp_jax.training.tables import look_up


class Part(NamedTuple):
    """A part of a data set, on the device.

    Attributes:
        images: float32 in [0, 1], shape [N, height, width, channels].
        labels: int32, shape [N].
    """

    images: jax.Array
    labels: jax.Array


class Feed:
    """Makes batches out of a data set that lies in device memory.

    Both parts are plain arrays to be handed to the compiled step, which picks its rows itself:
    no image passes the host after the start.

    >>> from gtddp_jax.training import data
    >>> feed = data.Feed(data.load("digits"), augmentation="crop", normalise=True, seed=0)
    >>> rows = data.epoch_order(seed=0, epoch=1, samples=feed.samples, batch_size=32)[0]
    >>> images, labels = jax.jit(feed.batch)(feed.train, rows, step=0)
    >>> images.shape, labels.shape
    ((32, 8, 8, 1), (32,))

    Attributes:
        train: The training part.
        validation: The validation part.
        samples: Size of the training part.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: str = "none",
        normalise: bool = False,
        seed: int = 0,
        sharding: jax.sharding.Sharding | None = None,
    ) -> None:
        """Moves the data to the device.

        Args:
            dataset: The data set.
            augmentation: Key in ``AUGMENTATIONS``; what happens to training images.
            normalise: Whether images are shifted and scaled, channel by channel, to mean 0 and
                standard deviation 1 over the training part.
            seed: The run's seed, from which the augmentation is drawn.
            sharding: Where the data is kept; by default on the first device. A sharding that
                replicates it keeps a copy on every device of a mesh.

        Raises:
            ValueError: If the augmentation is unknown.
        """
        self._augment = look_up(AUGMENTATIONS, augmentation, "augmentation")
        self._seed = seed
        self._scale = (dataset.channel_mean, dataset.channel_std) if normalise else None
        self.samples: int = len(dataset.train_labels)
        self.train: Part = _put(dataset.train_images, dataset.train_labels, sharding)
        self.validation: Part = _put(dataset.validation_images, dataset.validation_labels, sharding)

    def batch(
        self,
        part: Part,
        rows: ArrayLike,
        step: ArrayLike,
        first: ArrayLike = 0,
        seed: ArrayLike | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Picks, augments and normalises a batch; to be called inside ``jit``.

        Args:
            part: The training part, handed through the compiled step so that it is no constant.
            rows: Indices [batch] of its samples.
            step: Steps taken since the beginning of the run.
            first: Place of the first row in the whole batch, where the rows are a part of it.
            seed: The run's seed, maybe traced; by default the feed's.

        Returns:
            Images [batch, height, width, channels], float32, and labels [batch], int32.
        """
        rows = jnp.asarray(rows)
        images = part.images[rows]
        if self._augment is not unchanged:
            keys = sample_keys(self._seed if seed is None else seed, step, len(rows), first)
            images = jax.vmap(self._augment)(keys, images)
        return self.normalise(images), part.labels[rows]

    def normalise(self, images: jax.Array) -> jax.Array:
        """Shifts and scales images [..., channels] as in training; without augmentation."""
        if self._scale is None:
            return images
        axes = tuple(range(images.ndim - 1))
        mean, std = (np.expand_dims(values, axes) for values in self._scale)
        return (images - mean) / std


def _put(images: np.ndarray, labels: np.ndarray, sharding: jax.sharding.Sharding | None) -> Part:
    arrays = (images, labels)
    return Part(*(jax.device_put(arrays) if sharding is None else put(arrays, sharding)))
