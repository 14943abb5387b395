"""What an epoch's steps add up to."""

import jax.numpy as jnp

from gtddp_jax.training import totals


def test_reports_are_reduced_by_what_they_mean() -> None:
    reports = [
        {"weight_min": jnp.array(low), "weight_max": jnp.array(high), "stds": jnp.array([low, 1])}
        for low, high in [(0.5, 1.0), (0.25, 2.0)]
    ]
    added = totals.empty(reports[0])
    for report in reports:
        added = totals.add(added, jnp.array(report["weight_max"]), report)
    figures = totals.read(added)
    assert figures.loss == 1.5
    assert figures.report == {"weight_min": 0.25, "weight_max": 2.0, "stds": [0.375, 1.0]}


def test_a_counter_is_not_averaged() -> None:
    added = totals.empty({"skipped_steps": jnp.zeros((), jnp.int32)})
    for count in (0, 1, 1, 2):
        added = totals.add(added, jnp.ones(()), {"skipped_steps": jnp.array(count)})
    assert totals.read(added).report == {"skipped_steps": 2.0}


def test_plain_optimizers_report_nothing() -> None:
    added = totals.add(totals.empty({}), jnp.ones(()), {})
    assert totals.read(added) == totals.Figures(1.0, {})
