"""The sequential game as published, as a training method."""

from typing import Any

import optax

import gtddp_jax as gt
from gtddp_lab.training.methods import OPTIMIZERS, TrainingMethod
from gtddp_lab.training.settings import LearningRate, TrainSettings
from gtddp_lab.training.state import BatchStats
from gtddp_lab.training.steps import SampleLoss, make_sequential_step

KRONECKER_BASES = ("kfac", "ekfac")
"""Bases whose preconditioner is the same for open and closed gradients."""


def paper_method(base: str) -> TrainingMethod:
    """Table 1, Eq. 6 and Eq. 9 literally; see `gtddp_jax.paper_gtddp`.

    Args:
        base: Key in ``methods.OPTIMIZERS``.
    """
    entry = OPTIMIZERS[base]
    options: dict[str, Any] = {} if base in KRONECKER_BASES else {"statistics": "open"}

    def build_optimizer(
        net: gt.Network,
        loss: SampleLoss,
        settings: TrainSettings,
        rate: LearningRate,
        batch_stats: BatchStats,
    ) -> optax.GradientTransformation:
        del settings
        return entry.build_sequential(
            net,
            loss,
            rate,
            rollout="nonlinear",
            terminal=gt.terminal.GradientHessian(),
            batch_stats=batch_stats,
            **options,
        )

    return TrainingMethod(
        f"paper-{base}", entry.label, build_optimizer, make_sequential_step, has_sample_weights=True
    )
