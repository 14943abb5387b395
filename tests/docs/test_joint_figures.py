"""The figures of the page about the joint game are those of the study's numbers."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gtddp_lab.studies.joint.problems import CASES
from tests.docs.tables import table_rows

DOCS = Path(__file__).parents[2] / "docs"
FAMILIES = ("Adam", "SOAP", "L-BFGS", "optimistix LM", "joint game")


def final_errors(family: dict[str, Any]) -> np.ndarray:
    return np.array([run["error"][-1] for run in family["runs"]])


def study_numbers() -> dict[str, Any]:
    return json.loads((DOCS / "evidence" / "joint.json").read_text())["problems"]


def page_rows(start: str, name: str = "scientific_evidence.md") -> list[list[str]]:
    """The cells of the tables from a text of a page on."""
    return table_rows((DOCS / name).read_text().split(start)[1])


def range_text(errors: np.ndarray) -> str:
    text = f"{np.median(errors):.1e} ({errors.min():.1e} to {errors.max():.1e})"
    return text.replace("e-0", "e-")


def test_the_table_has_the_numbers_of_the_study() -> None:
    # The others are runs of a number of steps.
    problems = {name: found for name, found in study_numbers().items() if "Adam" in found}
    header, _, *shown = page_rows("## At equal time")
    assert header == ["problem", *FAMILIES]
    rows = zip(problems.items(), shown[: len(problems)], strict=True)
    for (name, families), (_, *cells) in rows:
        errors = {family: final_errors(families[family]) for family in families}
        best = min(FAMILIES, key=lambda family: np.median(errors.get(family, np.array([np.inf]))))
        for family, cell in zip(FAMILIES, cells, strict=True):
            expected = range_text(errors[family]) if family in errors else "–"
            if family == best:
                median, rest = expected.split(" ", 1)
                expected = f"**{median}** {rest}"
            assert cell == expected, (name, family)


STEPS = {
    ("Poisson, 10-D", "joint game"): "poisson10_steps",
    ("Poisson, 10-D", "SPRING"): "poisson10_steps",
    ("Burgers", "joint game"): "burgers_steps",
    ("Allen–Cahn", "joint game"): "allen_cahn_steps",
}
"""Rows of the table of runs of a number of steps."""


def test_errors_at_numbers_of_steps() -> None:
    problems, shown = study_numbers(), page_rows("## At equal steps")
    marks = [int(cell) for cell in shown[0][2:-1]]
    for ((title, family), name), row in zip(STEPS.items(), shown[2:], strict=False):
        assert row[:2] == [title, family]
        (run,) = problems[name][family]["runs"]
        errors = dict(zip(run["step"], run["error"], strict=True))
        assert len(run["step"]) > 20 and run["step"][-1] == CASES[name].least_steps
        texts = {step: f"{error:.1e}".replace("e-0", "e-") for step, error in errors.items()}
        assert row[2:] == [*(texts.get(mark, "") for mark in marks), texts[run["step"][-1]]]


def test_ten_dimensions_are_below_spring_at_every_step() -> None:
    found = study_numbers()["poisson10_steps"]
    joint, spring = (found[family]["runs"][0] for family in ("joint game", "SPRING"))
    below = np.interp(spring["step"], joint["step"], joint["error"]) < spring["error"]
    assert below[1:].all() and len(below) > 20


STEP_RATIOS = {
    "image": ("image", 1),
    "2-D Poisson": ("poisson2", 4),
    "10-D Poisson": ("poisson10", 12),
    "diabetes table": ("diabetes", 1),
}
"""Names of the page, with the factor of the derivatives by the coordinates."""


def test_what_a_step_costs_in_gradients() -> None:
    """By counting, and the steps per second of the study."""
    problems, shown = study_numbers(), page_rows("## When not to", "scientific.md")[2:]
    assert [title for title, *_ in shown] == list(STEP_RATIOS)
    for (name, factor), (_, *cells) in zip(STEP_RATIOS.values(), shown, strict=True):
        problem = CASES[name].problem()
        samples = jax.eval_shape(lambda draw=problem.draw: draw(jax.random.key(0), 1.0))
        outputs = sum(jax.tree.leaves(samples[term])[0].shape[0] for term in problem.terms)
        shapes = zip(problem.sizes, problem.sizes[1:], strict=False)
        parameters = sum((inputs + 1) * width for inputs, width in shapes)
        speeds = [
            np.median(
                [run["step"][-1] / run["seconds"][-1] for run in problems[name][family]["runs"]]
            )
            for family in ("Adam", "joint game")
        ]
        expected = [
            outputs,
            parameters,
            round(min(outputs, parameters) / 6 / factor),
            round(speeds[0] / speeds[1]),
        ]
        assert [int(cell.replace(" ", "")) for cell in cells] == expected, name
