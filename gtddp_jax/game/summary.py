"""From a finished step to its report."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.report import Report
from gtddp_jax.core.samples import Samples
from gtddp_jax.game.backward import StagePlan
from gtddp_jax.game.rollout import Rolled
from gtddp_jax.players.base import wide
from gtddp_jax.terminal import Expansion

Tree = Any
SAME = 1e-2
"""Relative difference below which a running-cost gradient is taken for the loss gradient."""


def _norm(tree: Tree) -> jax.Array:
    return optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), tree))


def double_counted(last: StagePlan) -> jax.Array:
    """Whether the running-cost gradient of the last stage equals its loss gradient.

    There alpha = 1, so that `Q_u - l_u` is the plain mean gradient of the loss.
    """
    mean = jax.tree.map(lambda q, cost: q - cost.astype(q.dtype), last.q, last.running)
    gap = _norm(jax.tree.map(lambda m, cost: m - cost.astype(m.dtype), mean, last.running))
    size = _norm(mean)
    return (gap <= SAME * size) & (size > 0)


def first_order_changes(rolled: Rolled) -> list[jax.Array]:
    """Closed gradient times step, one number a stage; not finite if either of them is not."""
    return [
        optax.tree.vdot(
            jax.tree.map(wide, q), {name: jax.tree.map(wide, rolled.steps[name]) for name in q}
        )
        for q in rolled.closed
    ]


def _feedback_ratio(plan: StagePlan, steps: Tree) -> jax.Array:
    k = plan.policy.open_gain
    size = _norm(k)
    return _norm(optax.tree.sub({name: steps[name] for name in k}, k)) / jnp.where(
        size > 0, size, 1.0
    )


def summarise(
    plans: Sequence[StagePlan],
    rolled: Rolled,
    terminal: Expansion,
    loss: Callable[[jax.Array], jax.Array],
    samples: Samples,
) -> Report:
    """The report of a step that has not been judged yet (`skipped` is filled in later).

    Args:
        plans: the backward pass.
        rolled: the rollout.
        terminal: the terminal model.
        loss: outputs -> [B].
        samples: the sample axis.
    """
    w = rolled.weights
    stage_mean = jax.vmap(samples.mean)(w)
    variance = jax.vmap(samples.mean)(jnp.square(w - stage_mean[:, None]))
    first_order = sum(first_order_changes(rolled), jnp.zeros(()))
    predicted, ratios = first_order, jnp.zeros(len(plans))
    if plans[0].alpha is not None:
        predicted = samples.mean(terminal.change(rolled.delta_phi))
        ratios = jnp.stack([_feedback_ratio(plan, rolled.steps) for plan in plans])
    known = rolled.outputs is not None
    value = terminal.line.value
    actual = samples.mean(loss(rolled.outputs) - value) if known else jnp.zeros(())
    as_float = {
        "loss": samples.mean(value),
        "weight_min": samples.min(w),
        "weight_mean": stage_mean.mean(),
        "weight_max": samples.max(w),
        "stage_weight_std": jnp.sqrt(variance),
        "feedback_ratio": ratios,
        "predicted_change": predicted,
        "actual_change": actual,
    }
    return Report(
        **{name: x.astype(jnp.float32) for name, x in as_float.items()},
        actual_change_known=jnp.array(known),
        skipped=jnp.array(False),
        skipped_steps=jnp.zeros((), jnp.int32),
        double_counted=double_counted(plans[-1]),
    )
