"""Watches the weights that a method gives to some training images, after every epoch.

The images are the same at every epoch: evenly spaced over the training part, without augmentation,
in batches of the run's own size, because a weight depends on the batch. The weights are those of
the next step; watching does not change the run.
"""

import base64
import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_lab.data import DataSplit, Feed
from gtddp_lab.training.placement import Placement
from gtddp_lab.training.state import RunState, step_key
from gtddp_lab.training.steps import TrainStep

QUANTILE_LEVELS = tuple(np.linspace(0, 1, 41).tolist())
"""Levels of the quantiles over all weights."""

STAGE_QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Levels of the quantiles over the weights of one stage."""

EXTREME_COUNT = 8
"""Number of images with the highest, and with the lowest, weights in a digest."""

SIGNIFICANT_DIGITS = 6
"""Significant digits of the numbers in a digest."""


def watched_rows(samples: int, batch_size: int, images: int) -> np.ndarray:
    """Selects the images that are watched.

    Args:
        samples: Size of the training part, at least one batch.
        batch_size: Samples in a batch.
        images: Approximate number of images; rounded to whole batches, at least one.

    Returns:
        Indices into the training part, int32 [batches, batch], all different.

    Example:
        >>> watched_rows(samples=100, batch_size=4, images=9)
        array([[ 0, 28, 56, 84],
               [14, 42, 70, 99]], dtype=int32)
    """
    batches = min(max(images // batch_size, 1), samples // batch_size)
    indices = np.linspace(0, samples - 1, batches * batch_size).astype(np.int32)
    # Column by column, so that every batch is spread over the whole training part.
    return indices.reshape(batch_size, batches).T


def weight_digest(weights: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """Summarizes the weights of an epoch in a size that does not depend on the number of images.

    Args:
        weights: Shape [stages, N].
        images: Indices of the images, [N].

    Returns:
        ``images`` (their number), ``not_finite`` (number of weights that are not), ``quantiles`` at
        ``QUANTILE_LEVELS`` over stages and images, ``stages`` (for each stage, quantiles at
        ``STAGE_QUANTILE_LEVELS``), and ``highest`` and ``lowest``: pairs [image, mean weight over
        the stages], the most extreme first. Quantiles are over finite weights, and empty if there
        are none.
    """
    # Diverged runs have weights that are not finite; they are counted, not plotted.
    finite = np.isfinite(weights)
    with np.errstate(invalid="ignore"):  # inf - inf: such means are left out below
        means = weights.mean(axis=0)
    order = [index for index in np.argsort(means, kind="stable") if np.isfinite(means[index])]
    count = min(EXTREME_COUNT, len(order) // 2)  # no image is both highest and lowest

    def extremes(indices: list[np.intp]) -> list[list[Any]]:
        return [[int(images[index]), _round_significant(means[index])] for index in indices[:count]]

    return {
        "images": len(images),
        "not_finite": int((~finite).sum()),
        "quantiles": _rounded_quantiles(weights[finite], QUANTILE_LEVELS),
        "stages": [
            _rounded_quantiles(stage_weights[keep], STAGE_QUANTILE_LEVELS)
            for stage_weights, keep in zip(weights, finite, strict=True)
        ],
        "highest": extremes(order[::-1]),
        "lowest": extremes(order),
    }


def _rounded_quantiles(values: np.ndarray, levels: tuple[float, ...]) -> list[float]:
    if not values.size:
        return []
    return [_round_significant(quantile) for quantile in np.quantile(values, levels)]


def _round_significant(value: Any) -> float:
    return float(f"{float(value):.{SIGNIFICANT_DIGITS}g}")


class WeightWatch:
    """Computes digests of the weights of the watched images."""

    def __init__(self, step: TrainStep, feed: Feed, placement: Placement, rows: np.ndarray) -> None:
        """Prepares the computation; the first call compiles it.

        Args:
            step: The step of a game.
            feed: The data.
            placement: Where states and batches live.
            rows: The result of `watched_rows`.
        """
        self._step, self._feed, self._placement, self._rows = step, feed, placement, rows
        self._weights_of_seed = self._compile(self._batch_weights)
        self._weights_of_seeds = self._compile(
            jax.vmap(self._batch_weights, in_axes=(0, None, None))
        )

    def _compile(self, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return jax.jit(function, out_shardings=self._placement.state_sharding)

    def _batch_weights(self, state: RunState, split: DataSplit, row: jax.Array) -> jax.Array:
        """The weights [stages, batch] that the next step would give to the watched batch."""
        observed: list[jax.Array] = []
        row = jnp.asarray(row)
        batch = self._feed.normalise(split.images[row]), split.labels[row]
        # The result of the step is discarded, so the compiler removes what only it needs.
        self._step(state, batch, step_key(state), observed.append)
        (weights,) = observed
        return weights

    def __call__(self, state: RunState) -> list[dict[str, Any]]:
        """Digests of the weights, one per seed."""
        compute = self._weights_of_seeds if state.step.ndim else self._weights_of_seed
        batches: list[jax.Array] = []
        for row in self._rows:
            batches.append(compute(state, self._feed.train, self._placement.place_rows(row)))
            if self._placement.waits_for_each_step:
                jax.block_until_ready(batches)
        # [stages, N] for one seed, [seeds, stages, N] for several
        weights = np.concatenate(jax.device_get(batches), axis=-1, dtype=np.float64)
        images = self._rows.ravel()
        return [
            weight_digest(of_seed, images) for of_seed in weights.reshape(-1, *weights.shape[-2:])
        ]


def watched_pictures(feed: Feed, rows: np.ndarray) -> dict[str, Any]:
    """Returns the watched images as JSON values.

    Args:
        feed: The data.
        rows: The result of `watched_rows`.

    Returns:
        ``format`` 1 and ``images``, each with ``index``, ``label`` and ``png`` (base64).
    """
    indices = np.sort(rows.ravel())
    # Every device holds all images, also in a run of several processes.
    images, labels = (np.asarray(array.addressable_data(0)[indices]) for array in feed.train)
    return {
        "format": 1,
        "images": [
            # Of the labels of a text, the last one: the character after it.
            {"index": int(index), "label": int(np.ravel(label)[-1]), "png": png_base64(image)}
            for index, image, label in zip(indices, images, labels, strict=True)
        ],
    }


def png_base64(image: np.ndarray) -> str:
    """Encodes an image [height, width, channels] in [0, 1] as a PNG file in base64.

    Three channels are shown as RGB; of any other number, the first is shown in grey.
    """
    from PIL import Image

    shown = image if image.shape[-1] == 3 else image[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
