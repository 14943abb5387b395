"""The joint game beside Adam and L-BFGS: relative errors against time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gtddp_lab.studies.joint.joint_pictures import draw_answers, draw_error_courses
from gtddp_lab.studies.joint.methods import StudiedMethod
from gtddp_lab.studies.joint.problem import ResidualProblem
from gtddp_lab.studies.joint.problems import CASES, QUICK_CASES, StudyCase
from gtddp_lab.studies.joint.run_store import RunStore
from gtddp_lab.studies.joint.training import MARKED_STEPS, Moment, ResidualRun
from gtddp_lab.studies.section import StudyOptions, StudySection

TUNING_SEED = 1000
"""Seed on which the settings are compared; the results are of other seeds."""

MOST_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class FamilyResult:
    """The best setting of one family on one problem.

    Attributes:
        method: the setting that had the lowest error on the tuning seed.
        tuning: error of each setting there; NaN if not finite.
        runs: of seeds 0, 1, ...
    """

    method: StudiedMethod
    tuning: Mapping[str, float]
    runs: Sequence[ResidualRun]

    @property
    def final_errors(self) -> np.ndarray:
        """At the end of each run [seeds]."""
        return np.array([run.moments[-1].error for run in self.runs])

    def errors_at(self, step: int) -> np.ndarray | None:
        """Errors at a number of steps [seeds]; None if a run has no such moment."""
        found = [
            [moment.error for moment in run.moments if moment.step == step] for run in self.runs
        ]
        return np.array([errors[0] for errors in found]) if all(found) else None

    @property
    def steps(self) -> int:
        """Number of steps of a run, the median over seeds."""
        return int(np.median([run.moments[-1].step for run in self.runs]))


Results = dict[str, dict[str, FamilyResult]]
"""`{problem: {family: result}}`."""


def study_joint(options: StudyOptions) -> StudySection:
    """Train on differential equations, an image and a table for equal times."""
    cases = QUICK_CASES if options.quick else CASES
    seeds = min(options.seeds, 1 if options.quick else MOST_SEEDS)
    store = RunStore(options.out / "runs", options.say)
    results: Results = {}
    problems: dict[str, ResidualProblem] = {}
    with jax.enable_x64(True):
        for name, case in cases.items():
            problems[name] = case.problem()
            results[name] = {}
            for family in dict.fromkeys(method.family for method in case.methods):
                methods = [method for method in case.methods if method.family == family]

                def run(
                    method: StudiedMethod, seed: int, name: str = name, case: StudyCase = case
                ) -> ResidualRun:
                    return store.run(name, problems[name], method, seed, case.seconds)

                results[name][family] = _best_of(methods, run, seeds)
        courses = {
            problem.title: {
                family: [run.moments for run in result.runs]
                for family, result in results[name].items()
            }
            for name, problem in problems.items()
        }
        pictures = draw_error_courses(courses, options.out, "joint")
        answers = {
            problem.title: (*problem.answer(), results[name]["joint game"].runs[0].prediction)
            for name, problem in problems.items()
            if problem.grid is not None
        }
        shapes = [problem.grid for problem in problems.values() if problem.grid is not None]
        if answers:
            pictures += draw_answers(answers, shapes, options.out, "joint_answers")
    text = "\n\n".join(
        [
            "Relative L2 error in float64, with the same network, samples and objective for all "
            f"methods. Of each method the best setting on a tuning seed; then {seeds} other "
            "seeds: median (smallest to largest). Time is that of the steps, without compilation.",
            "![Relative error against time](joint.png)",
            _result_table(results, problems),
            "Errors of the joint game at given numbers of steps, for comparison with published "
            "runs:",
            _step_table(results, problems),
            *(["![Answers and errors](joint_answers.png)"] if answers else []),
        ]
    )
    data = {"problems": {name: _problem_data(found) for name, found in results.items()}}
    title = "The joint game beside Adam and L-BFGS"
    return StudySection("joint", title, text, data, pictures)


def _best_of(
    methods: Sequence[StudiedMethod],
    run: Callable[[StudiedMethod, int], ResidualRun],
    seeds: int,
) -> FamilyResult:
    tuning = {}
    for method in methods:
        if len(methods) > 1:
            tuning[method] = run(method, TUNING_SEED).moments[-1].error
        else:
            tuning[method] = float("nan")
    best = min(tuning, key=lambda method: np.nan_to_num(tuning[method], nan=np.inf))
    errors = {method.setting: error for method, error in tuning.items()}
    return FamilyResult(best, errors, [run(best, seed) for seed in range(seeds)])


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
        joint = np.median(families["joint game"].final_errors)
        for family, result in families.items():
            seconds = result.runs[0].moments[-1].seconds
            ratio = np.median(result.final_errors) / joint
            lines.append(
                f"| {problems[name].title} | {family} | {result.method.setting} | {seconds:.0f} "
                f"| {result.steps} | {_range_text(result.final_errors)} | {ratio:.3g} |"
            )
    return "\n".join(lines)


def _step_table(results: Results, problems: Mapping[str, ResidualProblem]) -> str:
    lines = [
        "| problem | " + " | ".join(f"step {step}" for step in MARKED_STEPS) + " |",
        "|---" * (1 + len(MARKED_STEPS)) + "|",
    ]
    for name, families in results.items():
        found = [families["joint game"].errors_at(step) for step in MARKED_STEPS]
        texts = ["" if errors is None else _range_text(errors) for errors in found]
        lines.append(f"| {problems[name].title} | " + " | ".join(texts) + " |")
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
        }
        for family, result in families.items()
    }
