"""Each statement of the two pages of mathematics names tests that verify it, and they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = [
    section
    for page in ("mathematics.md", "mathematics_games.md")
    for section in re.split(r"^## ", (ROOT / "docs" / page).read_text("utf-8"), flags=re.M)[1:]
]
PAPER = ("Prop. 1", "Prop. 2", "Prop. 4", "Prop. 5", "Prop. 6", "Theorem 3", "Corollary 7")


def statements(section: str) -> list[tuple[str, list[str]]]:
    """The rows of the tables with the last column `shown by`, and the tests that they name."""
    found = []
    for table in re.findall(
        r"^\|.*\| shown by \|\n\|[-|]+\n((?:\|.*\n)+)", section + "\n", flags=re.M
    ):
        for row in table.splitlines():
            cells = row.strip("|").split(" | ")
            found.append(
                (" ".join(cells[:-1]), re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", cells[-1]))
            )
    return found


ALL = [row for section in SECTIONS for row in statements(section)]


def function_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_every_section_has_statements(section: str) -> None:
    assert statements(section)


def test_every_statement_names_tests_that_exist() -> None:
    assert len(ALL) > 50
    for statement, tests in ALL:
        assert tests, statement
        for path, name in (test.split("::") for test in tests):
            assert name in function_names(ROOT / path), f"{path}::{name}"


def test_the_papers_theorems_are_among_them() -> None:
    said = " ".join(statement.replace("Prop. 5 and 6", "Prop. 5, Prop. 6") for statement, _ in ALL)
    said = said.replace("Prop. 1 and 4", "Prop. 1, Prop. 4")
    assert not [theorem for theorem in PAPER if theorem not in said]


def test_every_misprint_has_its_test() -> None:
    (section,) = [section for section in SECTIONS if "Misprints" in section.splitlines()[0]]
    named = {test for _, tests in statements(section) for test in tests}
    path = "tests/reference/test_misprints.py"
    shown = {name for name in function_names(ROOT / path) if name.startswith("test_")}
    assert shown and {f"{path}::{name}" for name in shown} <= named
