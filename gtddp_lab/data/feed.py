"""Batches for the training step: the data lies on the device, `jit` does the rest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gtddp_lab.core.distributed import place_arrays
from gtddp_lab.core.look_up import look_up
from gtddp_lab.data.augmentation import AUGMENTATIONS, no_augmentation, sample_keys
from gtddp_lab.data.dataset import Dataset


class DataSplit(NamedTuple):
    """The training or the validation part of a data set, on the device.

    Attributes:
        images: float32 in [0, 1], shape [N, height, width, channels].
        labels: int32, shape [N] or [N, T].
    """

    images: jax.Array
    labels: jax.Array


class Feed:
    """Builds batches from a data set that lies in device memory.

    Both splits are plain arrays, passed to the compiled step, which selects its rows itself: after
    the start no image is transferred from the host.

    >>> from gtddp_lab import data
    >>> feed = data.Feed(data.load_dataset("digits"), augmentation="crop", normalise=True, seed=0)
    >>> rows = data.epoch_order(seed=0, epoch=1, samples=feed.samples, batch_size=32)[0]
    >>> images, labels = jax.jit(feed.batch)(feed.train, rows, step=0)
    >>> images.shape, labels.shape
    ((32, 8, 8, 1), (32,))

    Attributes:
        train: The training split.
        validation: The validation split.
        samples: Size of the training split.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: str = "none",
        normalise: bool = False,
        seed: int = 0,
        sharding: jax.sharding.Sharding | None = None,
    ) -> None:
        """Move the data to the device.

        Args:
            dataset: The data set.
            augmentation: Key in ``AUGMENTATIONS``: how training images are changed.
            normalise: Whether each channel is shifted and scaled to mean 0 and standard deviation
                1 over the training split.
            seed: Seed of the run, used to draw the augmentation.
            sharding: Placement of the data; by default the first device. With a replicating
                sharding, every device of a mesh has a copy.

        Raises:
            ValueError: If the augmentation is unknown.
        """
        self._augment = look_up(AUGMENTATIONS, augmentation, "augmentation")
        self._seed = seed
        # The statistics of the training split also scale the validation images.
        self._scale = (dataset.channel_mean, dataset.channel_std) if normalise else None
        self.samples: int = len(dataset.train_labels)
        self.train: DataSplit = _put_split(dataset.train_images, dataset.train_labels, sharding)
        self.validation: DataSplit = _put_split(
            dataset.validation_images, dataset.validation_labels, sharding
        )

    def batch(
        self,
        split: DataSplit,
        rows: ArrayLike,
        step: ArrayLike,
        first: ArrayLike = 0,
        seed: ArrayLike | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Select, augment and normalise a batch. Call it inside ``jit``.

        Args:
            split: The training split, an argument of the compiled step: as a constant it would be
                copied into the program.
            rows: Indices [batch] of its samples.
            step: Number of steps since the beginning of the run.
            first: Position of the first row in the global batch, if the rows are a part of it.
            seed: Seed of the run, may be traced; by default the feed's.

        Returns:
            Images [batch, height, width, channels], float32, and labels [batch], int32.
        """
        rows = jnp.asarray(rows)
        images = split.images[rows]
        # Without augmentation no keys are derived, which keeps the program small.
        if self._augment is not no_augmentation:
            keys = sample_keys(self._seed if seed is None else seed, step, len(rows), first)
            images = jax.vmap(self._augment)(keys, images)
        return self.normalise(images), split.labels[rows]

    def normalise(self, images: jax.Array) -> jax.Array:
        """Shift and scale images [..., channels] as for training, without augmentation."""
        if self._scale is None:
            return images
        # Explicit axes, because the tests forbid implicit rank promotion.
        axes = tuple(range(images.ndim - 1))
        mean, std = (np.expand_dims(values, axes) for values in self._scale)
        return (images - mean) / std


def _put_split(
    images: np.ndarray, labels: np.ndarray, sharding: jax.sharding.Sharding | None
) -> DataSplit:
    arrays = (images, labels)
    return DataSplit(
        *(jax.device_put(arrays) if sharding is None else place_arrays(arrays, sharding))
    )
