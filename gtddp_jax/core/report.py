"""What each step tells about itself: always on, fixed shapes, never a host synchronisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Report(NamedTuple):
    """Figures of the last step. All are float32 scalars unless another shape or dtype is given.

    Attributes:
        loss: mean loss of the batch before the step.
        weight_min: smallest weight w over samples and stages; 1 with feedback off.
        weight_mean: mean weight.
        weight_max: largest weight.
        stage_weight_std: standard deviation of the weights over samples, [stages].
        feedback_ratio: `|step - k| / |k|`, feedback against open gain, [stages].
        predicted_change: change of the mean loss that the terminal model predicts for the step;
            with feedback off its first-order part.
        actual_change: change of the mean loss of this batch, where `actual_change_known`, else 0.
        actual_change_known: bool; whether the step evaluated the new outputs (nonlinear rollout).
        skipped: bool; the step was not finite: parameters and curvature state stayed as they were.
        skipped_steps: int32; how many steps have been skipped so far.
        double_counted: bool; the running-cost gradient passed as `updates` equals the gradient
            of the loss, which is then counted twice.
    """

    loss: jax.Array
    weight_min: jax.Array
    weight_mean: jax.Array
    weight_max: jax.Array
    stage_weight_std: jax.Array
    feedback_ratio: jax.Array
    predicted_change: jax.Array
    actual_change: jax.Array
    actual_change_known: jax.Array
    skipped: jax.Array
    skipped_steps: jax.Array
    double_counted: jax.Array


def empty_report(stages: int) -> Report:
    """The report before the first step."""
    zero, one, false = jnp.zeros(()), jnp.ones(()), jnp.array(False)
    vector = jnp.zeros(stages)
    return Report(
        loss=zero,
        weight_min=one,
        weight_mean=one,
        weight_max=one,
        stage_weight_std=vector,
        feedback_ratio=vector,
        predicted_change=zero,
        actual_change=zero,
        actual_change_known=false,
        skipped=false,
        skipped_steps=jnp.zeros((), jnp.int32),
        double_counted=false,
    )
