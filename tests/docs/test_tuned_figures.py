"""The tables of the tuned comparison are those of the study's numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtddp_lab.core.printing import loss_text
from gtddp_lab.studies.cells import Cell
from gtddp_lab.studies.statistics import Estimate
from gtddp_lab.studies.time_to_target import SuiteRow, suite_table
from gtddp_lab.studies.tuned import near_best_rates
from gtddp_lab.studies.tuned_grid import GAMES, TUNED_PROBLEMS
from gtddp_lab.training.bounded_loss import LEAST_LOSS
from tests.docs.tables import table_rows

DOCS = Path(__file__).parents[2] / "docs"
DATA: dict[str, Any] = json.loads((DOCS / "evidence" / "tuned.json").read_text())
PROBLEMS: dict[str, list[dict[str, Any]]] = DATA["problems"]


def page_table(problem: str) -> list[list[str]]:
    """The cells of the table that follows a problem's picture."""
    page = (DOCS / "tuned.md").read_text()
    section = page.split(f"](evidence/tuned_{problem}.png)")[1].split("\n#")[0]
    return table_rows(section)[2:]


def or_infinity(number: float | None) -> float:
    """A number of the JSON, where infinity is None."""
    return np.inf if number is None else number


def expected_row(method: dict[str, Any]) -> list[str]:
    cell = Cell(**method["cell"])
    tuning = {float(rate): or_infinity(loss) for rate, loss in method["tuning"].items()}
    smallest, largest = near_best_rates(tuning)
    return [
        cell.label,
        f"{cell.rate:g}",
        f"{method['cost']:.2f}",
        loss_text(float(np.mean(method["train_loss"]))),
        f"{100 * np.mean(method['validation_accuracy']):.2f}",
        Estimate(*method["log_ratio_equal_epochs"]).text(),
        Estimate(*method["log_ratio_equal_time"]).text(),
        f"{smallest:g}" if smallest == largest else f"{smallest:g} to {largest:g}",
    ]


def test_every_problem_is_there() -> None:
    assert set(PROBLEMS) == set(TUNED_PROBLEMS)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_table_has_the_numbers_of_the_study(problem: str) -> None:
    assert page_table(problem) == [expected_row(method) for method in PROBLEMS[problem]]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_ratios_are_those_to_the_best_baseline(problem: str) -> None:
    """And each method is at the best of its rates."""
    methods = PROBLEMS[problem]
    games = [(m["cell"]["base"], m["cell"]["variant"]) in GAMES for m in methods]
    for losses, ratio in (
        ("train_loss", "log_ratio_equal_epochs"),
        ("equal_time_train_loss", "log_ratio_equal_time"),
    ):
        baselines = [m[losses] for m, game in zip(methods, games, strict=True) if not game]
        best = np.array(min(baselines, key=np.mean))
        for method in methods:
            mean = np.log(np.maximum(method[losses], LEAST_LOSS) / best).mean()
            np.testing.assert_allclose(mean, method[ratio][0], atol=1e-9)
    for method in methods:
        known = {float(rate): loss for rate, loss in method["tuning"].items() if loss is not None}
        assert min(known, key=lambda rate: known[rate]) == method["cell"]["rate"]


def test_the_suite_has_the_scores_of_the_study() -> None:
    """The page's table is the one that the study writes."""
    page = (DOCS / "evidence.md").read_text()
    rows = {
        name: SuiteRow(
            {key: or_infinity(ratio) for key, ratio in row["ratios"].items()},
            {},
            Estimate(*map(or_infinity, row["mean"])),
            row["score"],
        )
        for name, row in DATA["suite"].items()
    }
    assert suite_table(rows) in page
