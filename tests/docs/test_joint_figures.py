"""The figures of the page about the joint game are those of the study's numbers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parents[2] / "docs"
FAMILIES = ("Adam", "SOAP", "L-BFGS", "optimistix LM", "joint game")


def final_errors(family: dict[str, Any]) -> np.ndarray:
    return np.array([run["error"][-1] for run in family["runs"]])


def range_text(errors: np.ndarray) -> str:
    text = f"{np.median(errors):.1e} ({errors.min():.1e} to {errors.max():.1e})"
    return text.replace("e-0", "e-")


def test_the_table_has_the_numbers_of_the_study() -> None:
    page = (DOCS / "scientific.md").read_text()
    found = json.loads((DOCS / "evidence" / "joint.json").read_text())["problems"]
    # The others are runs of a number of steps.
    problems = {name: families for name, families in found.items() if "Adam" in families}
    header, _, *rows = re.findall(r"^\|.*\|$", page.split("## Measured")[1], re.MULTILINE)
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["problem", *FAMILIES]
    shown = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[: len(problems)]]
    for (name, families), (_, *cells) in zip(problems.items(), shown, strict=True):
        errors = {family: final_errors(families[family]) for family in families}
        best = min(FAMILIES, key=lambda family: np.median(errors.get(family, np.array([np.inf]))))
        for family, cell in zip(FAMILIES, cells, strict=True):
            expected = range_text(errors[family]) if family in errors else "–"
            if family == best:
                median, rest = expected.split(" ", 1)
                expected = f"**{median}** {rest}"
            assert cell == expected, (name, family)
