"""The documentation agrees with the code: docstring examples, files and tests that it names."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import gtddp_jax as gt
import gtddp_lab

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]


def module_names() -> list[str]:
    """All modules of both packages, except the one that runs the command."""
    found = [
        module.name
        for package in (gt, gtddp_lab)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    names = ["gtddp_jax", "gtddp_lab", *found]
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_optimizers_have_examples() -> None:
    for function in (gt.gtddp, gt.implicit, gt.sgd, gt.rmsprop, gt.adam, gt.adamw, gt.make_update):
        assert ">>> " in (function.__doc__ or ""), function.__name__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    """For example `tests/sequential/test_x.py::test_y`, `examples/z.py`, `gtddp_jax/core/w.py`."""
    text = page.read_text(encoding="utf-8")
    top = "tests|examples|docs|benchmarks|gtddp_jax|gtddp_lab"
    for path, test in re.findall(rf"`((?:{top})/[\w./]*)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        if test:
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"
