"""The sequential game as published, as a training method."""

import dataclasses
from functools import partial
from typing import Any

from gtddp_lab.training.methods import GAMES, OPTIMIZERS, TrainingMethod, build_method

PAPER_SETTINGS: dict[str, Any] = {"rollout": "nonlinear", "terminal": "gradient"}
"""Fields of ``TrainSettings`` with which the sequential game is the published one."""

KRONECKER_BASES = ("kfac", "ekfac")
"""Bases whose preconditioner is the same for open and closed gradients."""


def paper_method(base: str) -> TrainingMethod:
    """Table 1, Eq. 6 and Eq. 9 literally, given `PAPER_SETTINGS`; see `gtddp_jax.paper_gtddp`.

    Args:
        base: Key in ``methods.OPTIMIZERS``.
    """
    method = dataclasses.replace(build_method(base, "sequential"), name=f"paper-{base}")
    if base in KRONECKER_BASES:
        return method
    entry = OPTIMIZERS[base]
    assert entry.build_sequential is not None  # checked in `build_method`
    build = partial(entry.build_sequential, statistics="open")
    literal = dataclasses.replace(entry, build_sequential=build)
    return dataclasses.replace(method, build=partial(GAMES["sequential"].build, literal))
