"""Epochs over data that stays on the device.

The loop over batches is Python's, around one compiled step: inside ``jax.lax.scan`` XLA's
convolutions on the CPU were measured six times slower, which would also spoil every comparison of
times.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_jax.training.steps import Loss, Params, Step, StepResult

EVALUATION_CHUNK = 2048
"""Samples evaluated at a time: bounds memory on large data sets."""

BatchStep = Callable[[Params, Any, jax.Array, jax.Array, Any], StepResult]
"""Maps (params, state, images [N, ...], labels [N], indices [batch]) to the step's result."""


class EpochResult(NamedTuple):
    """What one epoch leaves behind.

    Attributes:
        params: Parameters after the last step.
        state: Optimizer state after the last step.
        losses: One scalar per step: mean loss of the batch under the parameters before the step.
        reports: One report per step, by name; empty dicts for plain optimizers.
    """

    params: Params
    state: Any
    losses: list[jax.Array]
    reports: list[dict[str, jax.Array]]


class Score(NamedTuple):
    """Mean loss, and the fraction of samples whose largest output is their class."""

    loss: float
    accuracy: float


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


def batch_step(step: Step) -> BatchStep:
    """Lets a step pick its batch from the whole training part, so that compiled code does it."""

    def pick(
        params: Params, state: Any, images: jax.Array, labels: jax.Array, batch: Any
    ) -> StepResult:
        return step(params, state, images[batch], labels[batch])

    return pick


def train_epoch(
    step: BatchStep,
    params: Params,
    state: Any,
    images: jax.Array,
    labels: jax.Array,
    order: np.ndarray,
) -> EpochResult:
    """Takes one step for every row of ``order``; returns when the device has finished.

    Args:
        step: The compiled step.
        params: Parameters before the first step.
        state: Optimizer state before the first step.
        images: Training images, [N, height, width, channels].
        labels: Their classes, [N].
        order: Indices of every batch's samples, [steps, batch].
    """
    losses: list[jax.Array] = []
    reports: list[dict[str, jax.Array]] = []
    for batch in order:
        params, state, loss, report = step(params, state, images, labels, batch)
        losses.append(loss)
        reports.append(report)
    return jax.block_until_ready(EpochResult(params, state, losses, reports))


REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "weight_min": np.min,
    "weight_max": np.max,
    "skipped_steps": np.max,
}
"""How a reported quantity is reduced over an epoch's steps; all others by their mean."""


def reduce_reports(reports: Sequence[dict[str, jax.Array]]) -> dict[str, Any]:
    """Reduces one report per step to one per epoch: a number each, or one per stage in a list."""
    columns = {name: [report[name] for report in reports] for name in reports[0]}
    return {
        name: REDUCTIONS.get(name, np.mean)(
            np.asarray(jax.device_get(values), np.float64), axis=0
        ).tolist()
        for name, values in columns.items()
    }


@partial(jax.jit, static_argnums=(0, 1))
def _totals(
    net: gt.Network, loss: Loss, params: Params, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    outputs = net.apply(params, images)
    return loss(outputs, labels).sum(), jnp.sum(outputs.argmax(axis=-1) == labels)


def evaluate(
    net: gt.Network, loss: Loss, params: Params, images: jax.Array, labels: jax.Array
) -> Score:
    """Scores a network on a whole part of a data set: images [N, ...], labels [N]."""
    samples = len(labels)
    loss_total, right = 0.0, 0
    for start in range(0, samples, EVALUATION_CHUNK):
        chunk = slice(start, start + EVALUATION_CHUNK)
        totals = jax.device_get(_totals(net, loss, params, images[chunk], labels[chunk]))
        loss_total += float(totals[0])
        right += int(totals[1])
    return Score(loss_total / samples, right / samples)
