"""When the stages of a network update and decompose their factors."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.curvature.kronecker.refresh_schedule import RefreshSchedule

PERIODS = [(10, 20), (1, 1), (1, 4), (3, 3), (4, 8), (2, 3), (10, 5), (3, 12)]
"""Steps between updates, steps between decompositions."""


def due_steps(schedule: RefreshSchedule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of the first steps updates the factors, and decomposes them."""
    counts = jnp.arange(steps)
    updated = np.broadcast_to(schedule.is_factor_step(counts), steps)
    refreshed = np.broadcast_to(schedule.is_refresh_step(counts), steps)
    return updated, refreshed


@pytest.mark.parametrize(("factors_every", "refresh_every"), PERIODS)
@pytest.mark.parametrize("stages", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("stagger", [True, False])
def test_each_stage_keeps_its_periods(
    factors_every: int, refresh_every: int, stages: int, stagger: bool
) -> None:
    """From the first step on no stage waits longer than a period, and no basis is outdated."""
    period = factors_every * refresh_every
    all_updated, all_refreshed = np.zeros(2 * period, int), np.zeros(2 * period, int)
    for index in range(stages):
        schedule = RefreshSchedule.for_stage(
            factors_every, refresh_every, index, stages, stagger=stagger
        )
        updated, refreshed = due_steps(schedule, 2 * period)
        assert updated[0] and refreshed[0], "the first step has no bases yet"
        assert not (refreshed & ~updated).any()
        assert (np.diff(np.flatnonzero(refreshed)) <= refresh_every).all()
        assert (np.diff(np.flatnonzero(refreshed))[1:] == refresh_every).all()
        assert (np.diff(np.flatnonzero(updated)) <= factors_every).all()
        if refresh_every % factors_every == 0:
            assert (np.diff(np.flatnonzero(updated))[1:] == factors_every).all()
        all_updated += updated
        all_refreshed += refreshed
    busiest = stages if not stagger else math.ceil(stages / refresh_every)
    assert all_refreshed[1:].max() == busiest
    if refresh_every % factors_every == 0:
        busiest = stages if not stagger else math.ceil(stages / factors_every)
        assert all_updated[1:].max() == busiest
