"""From a finished step to its report."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.report import Report, common_figures, norm
from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import vdot
from gtddp_jax.core.types import Tree
from gtddp_jax.game.backward import StagePlan
from gtddp_jax.game.rollout import Rolled
from gtddp_jax.terminal import Expansion


def first_order_changes(rolled: Rolled) -> list[jax.Array]:
    """Closed gradient times step, one number a stage; not finite if either of them is not."""
    return [vdot(q, {name: rolled.steps[name] for name in q}) for q in rolled.closed]


def _feedback_ratio(plan: StagePlan, steps: Tree) -> jax.Array:
    k = plan.policy.open_gain
    size = norm(k)
    return norm(optax.tree.sub({name: steps[name] for name in k}, k)) / jnp.where(
        size > 0, size, 1.0
    )


def summarise(
    plans: Sequence[StagePlan],
    rolled: Rolled,
    terminal: Expansion,
    loss: Callable[[jax.Array], jax.Array],
    samples: Samples,
    last: Report,
    skipped: jax.Array,
) -> Report:
    """The report of a step.

    Args:
        plans: the backward pass.
        rolled: the rollout.
        terminal: the terminal model.
        loss: outputs -> [B].
        samples: the sample axis.
        last: the report of the step before.
        skipped: whether the step is not taken.
    """
    predicted = sum(first_order_changes(rolled), jnp.zeros(()))
    ratios = jnp.zeros(len(plans))
    if plans[-1].alpha is not None:
        predicted = samples.mean(terminal.change(rolled.delta_phi))
        ratios = jnp.stack([_feedback_ratio(plan, rolled.steps) for plan in plans])
    # At the last stage alpha = 1: Q_u without the running cost is the plain gradient of the loss.
    end = plans[-1]
    plain = jax.tree.map(lambda q, cost: q - cost.astype(q.dtype), end.q, end.running)
    value = terminal.line.value
    new = rolled.outputs
    actual = jnp.zeros(()) if new is None else samples.mean(loss(new) - value)
    report = common_figures(
        last,
        samples,
        value,
        rolled.weights,
        predicted=predicted,
        skipped=skipped,
        gradient=plain,
        running=end.running,
    )
    return report._replace(
        feedback_ratio=ratios.astype(jnp.float32),
        actual_change=actual.astype(jnp.float32),
        actual_change_known=jnp.array(new is not None),
    )
