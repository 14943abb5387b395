"""The Python code of every page runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.conftest import RunPython

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = "```"
RUN = ("python", "console", "yaml")
"""Kinds of code: run here, in `test_consoles.py`, and there as a configuration."""


QUICKLY = 'import os; os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"'
"""What stands on the first line of a program, where the page has its title: it runs only once."""


def python_blocks(page: Path) -> str:
    """The Python blocks of a page, one after the other, each on the lines where the page has it."""
    inside, lines = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith(FENCE):
            inside = not inside and line == f"{FENCE}python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


def with_code(pages: list[Path]) -> list[Path]:
    return [page for page in pages if python_blocks(page).strip()]


@pytest.mark.parametrize("page", with_code(PAGES), ids=lambda page: page.stem)
def test_python_blocks_run(run_python: RunPython, page: Path, tmp_path: Path) -> None:
    script = tmp_path / f"{page.stem}.py"
    code = python_blocks(page)
    assert code.startswith("\n")
    script.write_text(QUICKLY + code, encoding="utf-8")
    result = run_python("-W", "error", str(script), timeout=480)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_all_code_is_of_a_kind_that_is_run(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [line for line in lines if line.lstrip().startswith(FENCE)]
    assert len(fences) % 2 == 0
    for opening, closing in zip(fences[::2], fences[1::2], strict=True):
        assert closing == FENCE
        assert re.fullmatch(rf"{FENCE}({'|'.join(RUN)}|\{{[\w-]+\}}.*)", opening), opening


def test_the_readme_has_code() -> None:
    assert ROOT / "README.md" in with_code(PAGES)
