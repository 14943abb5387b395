"""The report of a step of the sequential game."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.report import Report, shared_report_fields, tree_norm
from gtddp_jax.core.trees import tree_vdot
from gtddp_jax.core.types import Flag, PlayerTrees, Scalar
from gtddp_jax.sequential.backward import StagePlan
from gtddp_jax.sequential.rollout import RolloutResult
from gtddp_jax.terminal import TerminalExpansion
from gtddp_jax.terminal.base import PerSampleLoss


def first_order_changes(rollout: RolloutResult) -> list[Scalar]:
    """Closed gradient times step for each stage; not finite if the gradient or the step is not."""
    return [
        tree_vdot(gradient, {name: rollout.steps[name] for name in gradient})
        for gradient in rollout.closed_gradients
    ]


def _feedback_ratio(plan: StagePlan, steps: PlayerTrees) -> Scalar:
    """`|step - k| / |k|` of one stage."""
    open_gain = plan.policy.open_gain
    norm = tree_norm(open_gain)  # zero for a zero gradient; then the ratio is |feedback|
    feedback = optax.tree.sub({name: steps[name] for name in open_gain}, open_gain)
    return tree_norm(feedback) / jnp.where(norm > 0, norm, 1.0)


def step_report(
    plans: Sequence[StagePlan],
    rollout: RolloutResult,
    terminal: TerminalExpansion,
    per_sample: PerSampleLoss,
    loss: Scalar,
    counted: CountedSamples,
    last_report: Report,
    skipped: Flag,
) -> Report:
    """The report of a step.

    Args:
        plans: the result of the backward pass.
        rollout: the result of the rollout.
        terminal: the terminal model, expanded at the outputs.
        per_sample: maps outputs to losses [B].
        loss: see `Report.loss`.
        counted: the samples that have a gradient.
        last_report: the report of the previous step.
        skipped: whether the step is skipped.
    """
    last_stage = plans[-1]
    # Without feedback there are no predictions per sample, only the first-order change of the mean.
    predicted_change = sum(first_order_changes(rollout), jnp.zeros(()))
    ratios = jnp.zeros(len(plans))
    if last_stage.sample_weights is not None:
        predicted_change = counted.samples.mean(terminal.loss_change(rollout.delta_phi))
        ratios = jnp.stack([_feedback_ratio(plan, rollout.steps) for plan in plans])
    # In the last stage alpha = 1, so Q_u without the running cost is the gradient of the mean loss.
    loss_gradient = jax.tree.map(
        lambda gradient, cost: gradient - cost.astype(gradient.dtype),
        last_stage.open_gradient,
        last_stage.running_gradient,
    )
    actual_change = jnp.zeros(())
    if rollout.new_outputs is not None:
        actual_change = counted.samples.mean(
            per_sample(rollout.new_outputs) - terminal.exact_loss.value
        )
    report = shared_report_fields(
        last_report,
        counted,
        loss,
        rollout.sample_weights,
        predicted=predicted_change,
        skipped=skipped,
        gradient=loss_gradient,
        running_gradient=last_stage.running_gradient,
        samples_coupled=terminal.samples_coupled,
    )
    return report._replace(
        feedback_ratio=ratios.astype(jnp.float32),
        actual_change=actual_change.astype(jnp.float32),
        actual_change_known=jnp.array(rollout.new_outputs is not None),
    )
