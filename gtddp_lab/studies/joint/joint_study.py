"""The joint game beside other optimizers: relative errors against time."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gtddp_lab.studies.joint.joint_pictures import draw_answers, draw_error_courses
from gtddp_lab.studies.joint.marquardt import MISSING, OPTIMISTIX, has_optimistix
from gtddp_lab.studies.joint.methods import JOINT, SPRING, StudiedMethod
from gtddp_lab.studies.joint.problem import ResidualProblem
from gtddp_lab.studies.joint.problems import CASES, QUICK_CASES, StudyCase
from gtddp_lab.studies.joint.run_store import RunStore
from gtddp_lab.studies.joint.training import MARKED_STEPS, Moment, ResidualRun
from gtddp_lab.studies.section import StudyOptions, StudySection

TUNING_SEED = 1000
"""Seed on which the settings are compared; the results are of other seeds."""


@dataclasses.dataclass(frozen=True)
class FamilyResult:
    """The best setting of one family on one problem.

    Attributes:
        method: the setting that had the lowest error on the tuning seed.
        tuning: error of each setting there; NaN if not finite.
        runs: of seeds 0, 1, ...
        long_run: of seed 0 with a given number of steps, or None.
    """

    method: StudiedMethod
    tuning: Mapping[str, float]
    runs: Sequence[ResidualRun]
    long_run: ResidualRun | None = None

    @property
    def final_errors(self) -> np.ndarray:
        """At the end of each run [seeds]."""
        return np.array([run.moments[-1].error for run in self.runs])

    @property
    def steps(self) -> int:
        """Number of steps of a run, the median over seeds."""
        return int(np.median([run.moments[-1].step for run in self.runs]))


Results = dict[str, dict[str, FamilyResult]]
"""`{problem: {family: result}}`."""


def study_joint(options: StudyOptions) -> StudySection:
    """Train on differential equations and data for equal times."""
    cases = _possible_cases(QUICK_CASES if options.quick else CASES, options)
    seeds = 1 if options.quick else options.seeds
    store = RunStore(options.out / "runs", options.say)
    with jax.enable_x64(True):
        problems = {name: case.problem() for name, case in cases.items()}
        results = {
            name: _run_case(name, case, problems[name], store, seeds)
            for name, case in cases.items()
        }
        pictures = _draw_results(problems, results, options.out)
    text = "\n\n".join(
        [
            "Relative L2 error in float64, with the same network, samples and objective for all "
            "methods. Of each method the best setting on a tuning seed; then up to "
            f"{max(case.most_seeds for case in cases.values())} other seeds: median (smallest to "
            "largest). Time is processor time of the steps, without "
            "compilation.",
            "![Relative error against time](joint.png)",
            _result_table(results, problems),
            "The joint game and SPRING with seed 0 at numbers of steps for which there are "
            "published errors:",
            _step_table(results, problems),
            "![Answers and errors](joint_answers.png)",
        ]
    )
    data = {"problems": {name: _problem_data(found) for name, found in results.items()}}
    title = "The joint game beside other optimizers"
    return StudySection("joint", title, text, data, pictures)


def _possible_cases(cases: Mapping[str, StudyCase], options: StudyOptions) -> dict[str, StudyCase]:
    """The cases without methods whose package is missing, which is said once."""
    if has_optimistix():
        return dict(cases)
    possible = {}
    for name, case in cases.items():
        methods = tuple(method for method in case.methods if method.family != OPTIMISTIX)
        possible[name] = dataclasses.replace(case, methods=methods)
    if possible != dict(cases):
        options.say(MISSING)
    return possible


def _run_case(
    name: str, case: StudyCase, problem: ResidualProblem, store: RunStore, seeds: int
) -> dict[str, FamilyResult]:
    """The best setting of each family, with its runs."""
    found = {}
    for family in dict.fromkeys(method.family for method in case.methods):
        methods = [method for method in case.methods if method.family == family]

        def run(method: StudiedMethod, seed: int) -> ResidualRun:
            return store.run(name, problem, method, seed, case.seconds, case.least_steps)

        tuning = {method: float("nan") for method in methods}
        if len(methods) > 1:
            tuning = {method: run(method, TUNING_SEED).moments[-1].error for method in methods}
        best = min(methods, key=lambda method: np.nan_to_num(tuning[method], nan=np.inf))
        errors = {method.setting: error for method, error in tuning.items()}
        long_run = None
        if family == JOINT and case.long_steps:
            long_run = store.run(name, problem, best, 0, 0.0, case.long_steps)
        runs = [run(best, seed) for seed in range(min(seeds, case.most_seeds))]
        found[family] = FamilyResult(best, errors, runs, long_run)
    return found


def _draw_results(
    problems: Mapping[str, ResidualProblem], results: Results, out: Path
) -> tuple[str, ...]:
    courses = {
        problems[name].title: {
            family: [run.moments for run in result.runs] for family, result in families.items()
        }
        for name, families in results.items()
    }
    # The runs of a number of steps have the answers of other problems.
    gridded = {
        name: problem
        for name, problem in problems.items()
        if problem.grid is not None and len(results[name]) > 1
    }
    answers = {
        problem.title: (*problem.answer(), _longest(results[name][JOINT]).prediction)
        for name, problem in gridded.items()
    }
    shapes = [problem.grid for problem in gridded.values() if problem.grid is not None]
    pictures = draw_error_courses(courses, out, "joint")
    return pictures + draw_answers(answers, shapes, out, "joint_answers")


def _longest(result: FamilyResult) -> ResidualRun:
    """The run of seed 0 with most steps."""
    return result.runs[0] if result.long_run is None else result.long_run


def _range_text(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "diverged"
    if len(values) == 1:
        return f"{values[0]:.1e}"
    return f"{np.median(values):.1e} ({values.min():.1e} to {values.max():.1e})"


def _result_table(results: Results, problems: Mapping[str, ResidualProblem]) -> str:
    lines = [
        "| problem | method | setting | seconds | steps | relative error | × joint |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, families in results.items():
        joint = np.median(families[JOINT].final_errors)
        for family, result in families.items():
            seconds = result.runs[0].moments[-1].seconds
            ratio = np.median(result.final_errors) / joint
            lines.append(
                f"| {problems[name].title} | {family} | {result.method.setting} | {seconds:.0f} "
                f"| {result.steps} | {_range_text(result.final_errors)} | {ratio:.3g} |"
            )
    return "\n".join(lines)


def _step_table(results: Results, problems: Mapping[str, ResidualProblem]) -> str:
    marks = " | ".join(f"step {step}" for step in MARKED_STEPS)
    lines = [
        f"| problem | method | {marks} | seconds |",
        "|---" * (3 + len(MARKED_STEPS)) + "|",
    ]
    for name, families in results.items():
        for family in (JOINT, SPRING):
            if family not in families:
                continue
            moments = _longest(families[family]).moments
            errors = {moment.step: f"{moment.error:.1e}" for moment in moments}
            texts = [errors.get(step, "") for step in MARKED_STEPS]
            lines.append(
                f"| {problems[name].title} | {family} | {' | '.join(texts)} "
                f"| {moments[-1].seconds:.0f} |"
            )
    return "\n".join(lines)


def _problem_data(families: Mapping[str, FamilyResult]) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    def course(moments: Sequence[Moment]) -> dict[str, list[float | None]]:
        return {
            field: [finite(getattr(moment, field)) for moment in moments]
            for field in Moment._fields
        }

    return {
        family: {
            "setting": result.method.setting,
            "tuning": {setting: finite(error) for setting, error in result.tuning.items()},
            "runs": [course(run.moments) for run in result.runs],
            "long_run": course(result.long_run.moments) if result.long_run else None,
        }
        for family, result in families.items()
    }
