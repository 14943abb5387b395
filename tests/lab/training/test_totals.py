"""Totals over the steps of an epoch."""

import jax.numpy as jnp

from gtddp_lab.training import totals


def test_reports_are_reduced_by_name() -> None:
    reports = [
        {
            "sample_weight_min": jnp.array(low),
            "sample_weight_max": jnp.array(high),
            "stds": jnp.array([low, 1]),
        }
        for low, high in [(0.5, 1.0), (0.25, 2.0)]
    ]
    added = totals.empty_totals(reports[0])
    for report in reports:
        added = totals.add_step(added, jnp.array(report["sample_weight_max"]), report)
    figures = totals.read_totals(added)
    assert figures.loss == 1.5
    assert figures.report == {
        "sample_weight_min": 0.25,
        "sample_weight_max": 2.0,
        "stds": [0.375, 1.0],
    }


def test_a_counter_is_not_averaged() -> None:
    added = totals.empty_totals({"skipped_steps": jnp.zeros((), jnp.int32)})
    for count in (0, 1, 1, 2):
        added = totals.add_step(added, jnp.ones(()), {"skipped_steps": jnp.array(count)})
    assert totals.read_totals(added).report == {"skipped_steps": 2.0}


def test_base_optimizers_report_nothing() -> None:
    added = totals.add_step(totals.empty_totals({}), jnp.ones(()), {})
    assert totals.read_totals(added) == totals.EpochFigures(1.0, {})
