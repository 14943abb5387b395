"""Watched images: the weights that a method gives to some training images, after every epoch.

The images are the same at every epoch, evenly spaced over the training part, without augmentation,
in batches of the run's own size: a weight depends on the batch. What is looked at is the step that
would come next; nothing is changed.
"""

import base64
import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.training.data import Feed, Part
from gtddp_jax.training.placement import Placement
from gtddp_jax.training.state import TrainState, step_key

LEVELS = tuple(np.linspace(0, 1, 41).tolist())
"""At which levels the quantiles of all weights are kept."""

STAGE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""At which levels the quantiles of each stage's weights are kept."""

EXTREMES = 8
"""How many images with the highest and with the lowest weights are kept."""

DIGITS = 6
"""Significant digits of what is kept."""


def watched_rows(samples: int, batch_size: int, images: int) -> np.ndarray:
    """Which images are watched.

    Args:
        samples: Size of the training part, at least a batch.
        batch_size: Samples in a batch.
        images: About how many; whole batches are taken, at least one, no image twice.

    Returns:
        Indices into the training part, int32 [batches, batch].

    >>> watched_rows(samples=100, batch_size=4, images=9)
    array([[ 0, 28, 56, 84],
           [14, 42, 70, 99]], dtype=int32)
    """
    batches = min(max(images // batch_size, 1), samples // batch_size)
    places = np.linspace(0, samples - 1, batches * batch_size).astype(np.int32)
    return places.reshape(batch_size, batches).T


def digest(weights: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """What is kept of an epoch's weights, of a size that does not grow with the images.

    Args:
        weights: Shape [stages, N].
        images: Indices of the images, [N].

    Returns:
        ``images`` (how many), ``not_finite`` (how many weights), ``quantiles`` at ``LEVELS`` over
        stages and images, ``stages`` (for each, quantiles at ``STAGE_LEVELS``), and ``highest`` and
        ``lowest``, pairs [image, mean weight over the stages], the most extreme first. Quantiles
        are of the finite weights, and empty where there are none.
    """
    finite = np.isfinite(weights)
    with np.errstate(invalid="ignore"):  # inf - inf: that mean is left out below
        means = weights.mean(axis=0)
    order = [i for i in np.argsort(means, kind="stable") if np.isfinite(means[i])]
    count = min(EXTREMES, len(order) // 2)
    lowest, highest = order[:count], order[::-1][:count]
    return {
        "images": len(images),
        "not_finite": int((~finite).sum()),
        "quantiles": _quantiles(weights[finite], LEVELS),
        "stages": [
            _quantiles(row[keep], STAGE_LEVELS) for row, keep in zip(weights, finite, strict=True)
        ],
        "highest": [[int(images[i]), _rounded(means[i])] for i in highest],
        "lowest": [[int(images[i]), _rounded(means[i])] for i in lowest],
    }


def _quantiles(values: np.ndarray, levels: tuple[float, ...]) -> list[float]:
    return [_rounded(q) for q in np.quantile(values, levels)] if values.size else []


def _rounded(value: Any) -> float:
    return float(f"{float(value):.{DIGITS}g}")


class Watch:
    """Looks at the weights of the watched images."""

    def __init__(self, step: Any, feed: Feed, placement: Placement, rows: np.ndarray) -> None:
        """Compiles nothing yet.

        Args:
            step: The method's step, a game's.
            feed: The data.
            placement: Where states and batches live.
            rows: From `watched_rows`.
        """
        self._step, self._feed, self._placement, self._rows = step, feed, placement, rows
        self._one = self._compiled(self._weights)
        self._many = self._compiled(jax.vmap(self._weights, in_axes=(0, None, None)))

    def _compiled(self, look: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return jax.jit(look, out_shardings=self._placement.whole)

    def _weights(self, state: TrainState, part: Part, row: jax.Array) -> jax.Array:
        seen: list[jax.Array] = []
        row = jnp.asarray(row)
        batch = self._feed.normalise(part.images[row]), part.labels[row]
        self._step(state, batch, step_key(state), seen.append)
        (weights,) = seen
        return weights

    def __call__(self, state: TrainState) -> list[dict[str, Any]]:
        """Digests of the weights, one for each seed."""
        look = self._many if state.step.ndim else self._one
        found: list[jax.Array] = []
        for row in self._rows:
            found.append(look(state, self._feed.train, self._placement.put_rows(row)))
            if self._placement.starves:
                jax.block_until_ready(found)
        # [..., stages, N]
        seeds = np.concatenate(jax.device_get(found), axis=-1, dtype=np.float64)
        images = self._rows.ravel()
        return [digest(each, images) for each in seeds.reshape(-1, *seeds.shape[-2:])]


def pictures(feed: Feed, rows: np.ndarray) -> dict[str, Any]:
    """The watched images themselves, for a file.

    Args:
        feed: The data.
        rows: From `watched_rows`.

    Returns:
        ``format`` 1 and ``images``: for each, ``index``, ``label`` and ``png`` (base64).
    """
    places = np.sort(rows.ravel())
    images, labels = (np.asarray(part.addressable_data(0)[places]) for part in feed.train)
    return {
        "format": 1,
        "images": [
            {"index": int(i), "label": int(label), "png": png(image)}
            for i, image, label in zip(places, images, labels, strict=True)
        ],
    }


def png(image: np.ndarray) -> str:
    """An image [height, width, channels] in [0, 1] as a PNG file in base64.

    One channel is grey, three are red, green and blue; of any other number the first is shown.
    """
    from PIL import Image

    shown = image if image.shape[-1] == 3 else image[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
