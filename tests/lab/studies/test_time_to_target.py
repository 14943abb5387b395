"""Times to a target loss and the score of a suite, against figures worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from gtddp_lab.studies.time_to_target import (
    Courses,
    Problem,
    draw_profiles,
    score_suite,
    suite_table,
    time_to_target,
)

FALLING = np.array([[0.9, 0.5, 0.2, 0.1], [0.7, 0.3, 0.2, 0.1]])


def test_the_mean_over_seeds_reaches_the_target() -> None:
    assert time_to_target(Courses(FALLING, 1.5), 0.4) == 3.0
    assert time_to_target(Courses(FALLING, 1.5), 0.39) == 4.5
    assert time_to_target(Courses(FALLING, 1.0), 0.05) == math.inf
    assert time_to_target(Courses(np.full((1, 2), np.nan), 1.0), 0.4) == math.inf


TARGET = np.array([0.15, 0.12])


def suite() -> dict[str, Problem]:
    """NAdam takes 4; "fast" takes 2 and 1 on two problems, "slow" 4 and never."""
    slow = FALLING[:, [0, 1, 1, 1]]
    return {
        "one": Problem(
            {
                "NAdam": Courses(FALLING, 1.0),
                "fast": Courses(FALLING, 0.5),
                "slow": Courses(FALLING, 1.0),
                "elsewhere": Courses(FALLING, 1.0),
            },
            TARGET,
        ),
        "two": Problem(
            {
                "NAdam": Courses(FALLING, 1.0),
                "fast": Courses(FALLING, 0.25),
                "slow": Courses(slow, 1.0),
            },
            TARGET,
        ),
    }


def test_times_to_the_mean_of_the_target_losses() -> None:
    assert suite()["two"].times() == {"NAdam": 4.0, "fast": 1.0, "slow": math.inf}
    assert suite()["two"]._replace(target_losses=np.array([0.3, 0.5])).times()["fast"] == 0.5


def test_scores_are_means_of_the_profile() -> None:
    rows = score_suite(suite(), "NAdam")
    assert set(rows) == {"NAdam", "fast", "slow"}  # the methods that all problems have
    assert rows["fast"].ratios == {"one": 0.5, "two": 0.25}
    assert rows["fast"].mean.value == pytest.approx(math.sqrt(0.5 * 0.25))
    assert rows["fast"].score == 1.0
    # NAdam takes 2 and 4 times as long as the fastest: its profile is 0, then 1/2, then 1.
    assert rows["NAdam"].score == pytest.approx((2 / 3 + 0) / 2)
    assert rows["slow"].score == pytest.approx((2 / 3 + 0) / 2)
    assert rows["slow"].mean.value == math.inf
    profile = [
        np.mean([r <= t for r in rows["NAdam"].to_best.values()]) for t in np.linspace(1, 4, 3001)
    ]
    assert np.mean(profile) == pytest.approx(rows["NAdam"].score, abs=1e-3)


def test_scores_do_not_need_the_reference() -> None:
    """It may not reach the target itself."""
    courses = {"NAdam": Courses(FALLING[:, :2], 1.0), "fast": Courses(FALLING, 0.5)}
    rows = score_suite({"one": Problem(courses, TARGET)}, "NAdam")
    assert (rows["fast"].score, rows["NAdam"].score) == (1.0, 0.0)
    assert math.isnan(rows["fast"].ratios["one"]) and math.isnan(rows["fast"].mean.value)


def test_intervals_come_from_resampled_seeds() -> None:
    """One seed gets there in two epochs, the other in three; draws of one of them alone differ."""
    losses = np.array([[1.0, 0.1, 0.1], [1.0, 1.0, 0.1]])
    courses = {"NAdam": Courses(np.full((2, 3), 0.1), 1.0), "it": Courses(losses, 1.0)}
    rows = score_suite({"one": Problem(courses, np.array([0.1, 0.1]))}, "NAdam")
    assert rows["NAdam"].mean == (1.0, 1.0, 1.0)
    assert rows["it"].mean == pytest.approx((3.0, 2.0, 3.0))


def test_targets_are_resampled_with_the_seeds() -> None:
    """A seed that is drawn twice is compared with its own target."""
    losses = np.array([[2.0, 0.2], [1.0, 0.1]])
    courses = {"NAdam": Courses(losses, 1.0)}
    problem = Problem(courses, losses[:, -1]).resample(np.random.default_rng(0))
    np.testing.assert_array_equal(problem.courses["NAdam"].losses[:, -1], problem.target_losses)
    assert set(problem.target_losses) <= {0.1, 0.2}


def test_table_and_picture(tmp_path: Path) -> None:
    rows = score_suite(suite(), "NAdam")
    lines = suite_table(rows).splitlines()
    assert lines[2] == "| fast | 2 of 2 | 0.35 [0.35, 0.35] | 1.00 |"
    assert "| slow | 1 of 2 | not reached | 0.33 |" in lines
    names = draw_profiles(rows, tmp_path, "profile")
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
