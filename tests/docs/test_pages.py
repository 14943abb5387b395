"""The Python code of every page runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.conftest import RunPython

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = "```"
TESTED_TYPES = ("python", "console", "yaml", "text")
"""Types of code: run here, run by `test_consoles.py`, read there as a configuration, and output."""


FIRST_LINE = 'import os; os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"'
"""First line of each program. Programs run only once, so compilation time dominates."""


def python_blocks(page: Path) -> str:
    """The Python blocks of a page as one program, with the line numbers of the page."""
    is_python, lines = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith(FENCE):
            is_python = not is_python and line == f"{FENCE}python"
            lines.append("")
        else:
            lines.append(line if is_python else "")
    return "\n".join(lines)


def pages_with_python(pages: list[Path]) -> list[Path]:
    return [page for page in pages if python_blocks(page).strip()]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_python(PAGES), ids=lambda page: page.stem)
def test_python_blocks_run(run_python: RunPython, page: Path, tmp_path: Path) -> None:
    script = tmp_path / f"{page.stem}.py"
    code = python_blocks(page)
    assert code.startswith("\n")
    script.write_text(FIRST_LINE + code, encoding="utf-8")
    result = run_python("-W", "error", str(script), timeout=480)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_all_code_is_tested(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [line for line in lines if line.lstrip().startswith(FENCE)]
    assert len(fences) % 2 == 0
    for opening, closing in zip(fences[::2], fences[1::2], strict=True):
        assert closing == FENCE
        assert re.fullmatch(rf"{FENCE}({'|'.join(TESTED_TYPES)}|\{{[\w-]+\}}.*)", opening), opening


def test_the_readme_has_python() -> None:
    assert ROOT / "README.md" in pages_with_python(PAGES)
