"""What each step tells about itself: always on, fixed shapes, never a host synchronisation."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import wide
from gtddp_jax.core.types import Count, Flag, PerSample, Scalar, Tree

Observe: TypeAlias = Callable[[Float[Array, "stages B"]], None]
"""Gets the weights [stages, B] of a step's samples while it is traced."""


class Report(NamedTuple):
    """Figures of the last step. All are float32 scalars unless another shape or dtype is given.

    Attributes:
        loss: mean loss of the batch before the step.
        weight_min: smallest weight w over samples and stages; 1 with feedback off.
        weight_mean: mean weight.
        weight_max: largest weight.
        stage_weight_std: standard deviation of the weights over samples, [stages].
        feedback_ratio: `|step - k| / |k|`, feedback against open gain, [stages]; empty for the
            implicit game, which has no open gain.
        predicted_change: change of the mean loss that the terminal model predicts for the step;
            with feedback off, and in the implicit game, the step times its own gradient.
        actual_change: change of the mean loss of this batch, where `actual_change_known`, else 0.
        actual_change_known: bool; whether the step evaluated the new outputs (nonlinear rollout).
        skipped: bool; the step was not finite: parameters and curvature state stayed as they were.
        skipped_steps: int32; how many steps have been skipped so far.
        double_counted: bool; the running-cost gradient passed as `updates` equals the gradient
            of the loss, which is then counted twice.
    """

    loss: Scalar
    weight_min: Scalar
    weight_mean: Scalar
    weight_max: Scalar
    stage_weight_std: Float[Array, " stages"]
    feedback_ratio: Float[Array, " ratios"]
    predicted_change: Scalar
    actual_change: Scalar
    actual_change_known: Flag
    skipped: Flag
    skipped_steps: Count
    double_counted: Flag


TELLING = 8
SAME = 1e-2
"""Relative difference below which a running-cost gradient is taken for the loss gradient."""


def norm(tree: Tree) -> Scalar:
    """The Euclidean norm of a tree, in at least float32."""
    return optax.tree.norm(jax.tree.map(wide, tree))


def same(gradient: Tree, running: Tree) -> Flag:
    """Whether the running-cost gradient equals the gradient of the loss; a scalar boolean.

    One array of the tree tells: the smallest of at least `TELLING` numbers, if there is one.
    """
    pairs = list(zip(jax.tree.leaves(gradient), jax.tree.leaves(running), strict=True))
    telling = [pair for pair in pairs if pair[0].size >= TELLING] or pairs
    gradient, running = min(telling, key=lambda pair: pair[0].size)
    gap = norm(jax.tree.map(lambda g, cost: g - cost.astype(g.dtype), gradient, running))
    size = norm(gradient)
    return (gap <= SAME * size) & (size > 0)


def common_figures(
    last: Report,
    samples: Samples,
    value: PerSample,
    weights: Float[Array, "stages B"],
    *,
    predicted: Scalar,
    skipped: Flag,
    gradient: Tree,
    running: Tree,
) -> Report:
    """The figures that both games have; the others stay as in `last`.

    Args:
        last: the report of the step before.
        samples: the sample axis.
        value: losses [B].
        weights: [stages, B].
        predicted: see `Report.predicted_change`.
        skipped: whether the step is not taken.
        gradient: a gradient of the mean loss (of some of the parameters).
        running: the gradient of the running cost for the same parameters.
    """
    means = jax.vmap(samples.mean)(weights)
    variances = jax.vmap(samples.mean)(jnp.square(weights - means[:, None]))
    figures = {
        "loss": samples.mean(value),
        "weight_min": samples.min(weights),
        "weight_mean": means.mean(),
        "weight_max": samples.max(weights),
        "stage_weight_std": jnp.sqrt(variances),
        "predicted_change": predicted,
    }
    return last._replace(
        **{name: x.astype(jnp.float32) for name, x in figures.items()},
        skipped=skipped,
        skipped_steps=last.skipped_steps + skipped.astype(jnp.int32),
        double_counted=same(gradient, running),
    )


def empty_report(stages: int, ratios: int) -> Report:
    """The report before the first step, with so many stages and feedback ratios.

    Every field is an array of its own: a buffer that stands twice in a state cannot be donated.
    """

    def number(value: float, *shape: int) -> jax.Array:
        return jnp.full(shape, value, jnp.float32)

    return Report(
        loss=number(0.0),
        weight_min=number(1.0),
        weight_mean=number(1.0),
        weight_max=number(1.0),
        stage_weight_std=number(0.0, stages),
        feedback_ratio=number(0.0, ratios),
        predicted_change=number(0.0),
        actual_change=number(0.0),
        actual_change_known=jnp.full((), False),
        skipped=jnp.full((), False),
        skipped_steps=jnp.zeros((), jnp.int32),
        double_counted=jnp.full((), False),
    )
