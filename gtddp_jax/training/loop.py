"""Epochs over data that stays on the device: pure functions, to be compiled by the caller."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_jax.training.steps import Loss, Params, Step

EVALUATION_CHUNK = 512
"""Samples evaluated at a time: bounds memory on large data sets."""


class EpochResult(NamedTuple):
    """What one epoch leaves behind.

    Attributes:
        params: Parameters after the last step.
        state: Optimizer state after the last step.
        losses: Shape [steps]; mean loss of every batch under the parameters before its step.
        average_loss: Scalar; mean of ``losses``, the running average of the training loss.
        report: What the optimizer reports, over the steps: see ``REDUCTIONS``.
    """

    params: Params
    state: Any
    losses: jax.Array
    average_loss: jax.Array
    report: dict[str, jax.Array]


class Score(NamedTuple):
    """Mean loss and the fraction of samples whose largest output is their class; scalars."""

    loss: jax.Array
    accuracy: jax.Array


REDUCTIONS = {"weight_min": jnp.min, "weight_max": jnp.max, "skipped_steps": jnp.max}
"""How a reported quantity is reduced over an epoch's steps; all others by their mean."""


def batch_order(seed: int, epoch: int, samples: int, batch_size: int) -> np.ndarray:
    """Draws the batches of one epoch, the same for every method.

    Args:
        seed: The run's seed.
        epoch: Number of the epoch; every epoch has its own order.
        samples: Size of the training part.
        batch_size: At most ``samples``. The samples left over by the last full batch sit out.

    Returns:
        Indices into the training part, int32 of shape [samples // batch_size, batch_size].
    """
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    steps = samples // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def train_epoch(
    step: Step, params: Params, state: Any, images: jax.Array, labels: jax.Array, order: jax.Array
) -> EpochResult:
    """Takes one step for every row of ``order``.

    Args:
        step: The training step.
        params: Parameters before the first step.
        state: Optimizer state before the first step.
        images: Training images, [N, height, width, channels].
        labels: Their classes, [N].
        order: Indices of every batch's samples, [steps, batch].
    """

    def body(carry: tuple[Params, Any], batch: jax.Array) -> tuple[tuple[Params, Any], Any]:
        result = step(*carry, images[batch], labels[batch])
        return (result.params, result.state), (result.loss, result.report)

    (params, state), (losses, report) = jax.lax.scan(body, (params, state), order)
    reduced = {
        name: REDUCTIONS.get(name, jnp.mean)(values.astype(losses.dtype), axis=0)
        for name, values in report.items()
    }
    return EpochResult(params, state, losses, losses.mean(), reduced)


def evaluate(
    net: gt.Network, loss: Loss, params: Params, images: jax.Array, labels: jax.Array
) -> Score:
    """Scores a network on a whole part of a data set: images [N, ...], labels [N]."""

    def one(sample: tuple[jax.Array, jax.Array]) -> Score:
        image, label = sample
        outputs = net.apply(params, image[None])
        right = outputs.argmax(axis=-1) == label
        return Score(loss(outputs, label[None])[0], right[0].astype(outputs.dtype))

    scores = jax.lax.map(one, (images, labels), batch_size=EVALUATION_CHUNK)
    return Score(scores.loss.mean(), scores.accuracy.mean())
