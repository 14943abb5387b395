"""Time to a target loss, and the score of a suite of problems by it.

The score is that of AlgoPerf (Dahl et al. 2023, "Benchmarking neural network training algorithms",
section 4.5): on each problem, a method's time divided by the shortest time of any method; the
profile of a method is the share of problems with at most a given ratio, and its score the mean of
the profile over ratios from 1 to `LARGEST_RATIO`.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtddp_lab.studies.markdown import markdown_table
from gtddp_lab.studies.pictures import new_figure, save_figure
from gtddp_lab.studies.statistics import CONFIDENCE_LEVEL, Estimate

LARGEST_RATIO = 4.0
RESAMPLES = 999


class Courses(NamedTuple):
    """Training losses of a method on a problem.

    Attributes:
        losses: [seeds, epochs].
        epoch_time: Time of an epoch, in any unit that the methods of a problem share.
    """

    losses: np.ndarray
    epoch_time: float


def time_to_target(courses: Courses, target: float) -> float:
    """Return the time of the first epoch whose mean loss is at most the target, or infinity.

    Example:
        >>> time_to_target(Courses(np.array([[0.3, 0.2, 0.1]]), 2.0), 0.2)
        4.0
    """
    reached = courses.losses.mean(axis=0) <= target
    return float(1 + reached.argmax()) * courses.epoch_time if reached.any() else math.inf


class Problem(NamedTuple):
    """The methods on one problem, on the same seeds.

    Attributes:
        courses: The methods by name.
        target_losses: [seeds]; their mean is the target.
    """

    courses: Mapping[str, Courses]
    target_losses: np.ndarray

    def times(self) -> dict[str, float]:
        """Return the time to the target, by method."""
        target = float(self.target_losses.mean())
        return {name: time_to_target(each, target) for name, each in self.courses.items()}

    def resample(self, rng: np.random.Generator) -> "Problem":
        """Return the problem on as many seeds, drawn with replacement."""
        seeds = rng.integers(0, len(self.target_losses), len(self.target_losses))
        courses = {
            name: each._replace(losses=each.losses[seeds]) for name, each in self.courses.items()
        }
        return Problem(courses, self.target_losses[seeds])


class SuiteRow(NamedTuple):
    """A method on all problems.

    Attributes:
        ratios: Its time to the target over that of the reference, by problem; infinity where it
            does not get there, NaN where the reference does not.
        to_best: Its time over the shortest one of any method, by problem.
        mean: The geometric mean of these ratios, with a bootstrap interval over seeds.
        score: Its score, between 0 and 1.
    """

    ratios: dict[str, float]
    to_best: dict[str, float]
    mean: Estimate
    score: float


def score_suite(problems: Mapping[str, Problem], reference: str) -> dict[str, SuiteRow]:
    """Score the methods that were run on all problems.

    Args:
        problems: The problems by name.
        reference: The method whose times are the unit of `SuiteRow.ratios`.
    """
    first, *others = problems.values()
    names = [name for name in first.courses if all(name in other.courses for other in others)]

    def ratio(times: Mapping[str, float], name: str) -> float:
        unit = times[reference]
        return times[name] / unit if math.isfinite(unit) else math.nan

    def mean_ratios(times: Iterable[Mapping[str, float]]) -> np.ndarray:
        ratios = [[ratio(each, name) for name in names] for each in times]
        return np.exp(np.log(ratios).mean(axis=0))

    times = {key: problem.times() for key, problem in problems.items()}
    rng = np.random.default_rng(0)
    resamples = [
        mean_ratios(problem.resample(rng).times() for problem in problems.values())
        for _ in range(RESAMPLES)
    ]
    # Percentiles, because ratios may be infinite.
    tail = 50 * (1 - CONFIDENCE_LEVEL)
    low, high = np.percentile(resamples, (tail, 100 - tail), axis=0, method="nearest")
    best = {key: min(each[name] for name in names) for key, each in times.items()}
    rows = {}
    for name, *interval in zip(names, mean_ratios(times.values()), low, high, strict=True):
        to_best = {key: each[name] / best[key] for key, each in times.items()}
        rows[name] = SuiteRow(
            {key: ratio(each, name) for key, each in times.items()},
            to_best,
            Estimate(*map(float, interval)),
            float(np.mean([*map(_share, to_best.values())])),
        )
    return rows


def _share(ratio: float) -> float:
    """The mean over thresholds from 1 to `LARGEST_RATIO` of whether a ratio is at most that."""
    return max(0.0, LARGEST_RATIO - ratio) / (LARGEST_RATIO - 1)


def suite_table(rows: Mapping[str, SuiteRow]) -> str:
    """Return a table of the methods, the best score first."""
    ranked = sorted(rows.items(), key=lambda item: -item[1].score)
    return markdown_table(
        ("method", "problems with the target reached", "mean time to target", "score"),
        [
            (
                name,
                f"{np.isfinite(list(row.ratios.values())).sum()} of {len(row.ratios)}",
                _ratio_text(row.mean),
                f"{row.score:.2f}",
            )
            for name, row in ranked
        ],
    )


def _ratio_text(mean: Estimate) -> str:
    value, low, high = (f"{x:.2f}" if math.isfinite(x) else "not reached" for x in mean)
    return f"{value} [{low}, {high}]" if mean.known else value


def draw_profiles(rows: Mapping[str, SuiteRow], out: Path, name: str) -> tuple[str, ...]:
    """Draw the share of problems that each method solves within a multiple of the best time.

    Args:
        rows: The methods.
        out: Folder.
        name: Name of the files, without extension.
    """
    figure = new_figure(1, width=6.0, height=3.6)
    axes = figure.subplots()
    for label, row in sorted(rows.items(), key=lambda item: -item[1].score):
        thresholds = [1.0, *sorted(filter(math.isfinite, row.to_best.values())), LARGEST_RATIO]
        ratios = np.array([*row.to_best.values()])
        shares = [np.mean(ratios <= limit) for limit in thresholds]
        axes.step(thresholds, shares, where="post", label=label)
    axes.set(
        xlim=(1, LARGEST_RATIO),
        ylim=(-0.02, 1.02),
        xlabel="time to target, as a multiple of the shortest",
        ylabel="share of problems",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return save_figure(figure, out, name)
