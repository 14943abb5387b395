"""Estimates with bootstrap intervals."""

import math

import numpy as np
import pytest

from gtddp_lab.studies import statistics
from gtddp_lab.studies.statistics import Estimate
from gtddp_lab.training.bounded_loss import LEAST_LOSS


def test_mean_has_its_interval_around_it() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 40)
    found = statistics.bootstrap_mean(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(40)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_covers_about_as_often_as_stated() -> None:
    rng = np.random.default_rng(1)
    found = [statistics.bootstrap_mean(rng.normal(0.0, 1.0, 12)) for _ in range(60)]
    covered = sum(e.low <= 0 <= e.high for e in found)
    assert 48 <= covered < 60  # 95 % nominally, somewhat less with twelve seeds; never always


def test_log_ratio_is_paired() -> None:
    base = np.array([1.0, 10.0, 100.0, 1000.0])
    found = statistics.mean_log_ratio(base * np.array([0.5, 0.5, 0.49, 0.51]), base)
    assert found.value == pytest.approx(math.log(0.5), abs=0.01)
    assert found.sign == -1 and found.high < math.log(0.52)


def test_a_loss_of_zero_has_a_log_ratio() -> None:
    base = np.full(4, 1e-4)
    found = statistics.mean_log_ratio(np.array([1e-4, 1e-4, 1e-4, 0.0]), base)
    assert found.value == pytest.approx(math.log(LEAST_LOSS / 1e-4) / 4)
    assert not statistics.mean_log_ratio(np.array([1.0, math.inf, 0.0, 1.0]), base).known


def test_variance_change_of_half_the_spread_is_three_quarters_less() -> None:
    base = np.random.default_rng(2).normal(size=30)
    found = statistics.variance_change(0.5 * base, base)
    assert found.value == pytest.approx(-0.75)
    assert found.sign == -1


@pytest.mark.parametrize("values", [[1.0, math.nan, 2.0], [1.0, math.inf], [3.0]])
def test_a_value_that_is_not_finite_or_alone_is_not_known(values: list[float]) -> None:
    found = statistics.bootstrap_mean(np.array(values))
    assert not found.known and found.sign == 0
    assert found.text() == "diverged"
    assert found.json_data == [None, None, None]


def test_equal_values_have_an_interval_of_length_zero() -> None:
    assert statistics.bootstrap_mean(np.full(5, 2.0)) == Estimate(2.0, 2.0, 2.0)


def test_text_and_sign() -> None:
    assert Estimate(-0.1, -0.2, 0.05).text() == "-0.10 [-0.20, +0.05]"
    assert Estimate(-0.1, -math.inf, math.inf).text() == "-0.10 [unknown]"
    assert [Estimate(0.1, low, 0.3).sign for low in (-0.1, 0.05)] == [0, 1]
