"""The Python code of README.md and of every page of docs/ runs as it stands."""

from pathlib import Path

import pytest

from tests.conftest import RunPython

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = "```"


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
    script.write_text(python_blocks(page), encoding="utf-8")
    result = run_python("-W", "error", str(script), timeout=240)
    assert result.returncode == 0, result.stderr


def test_the_readme_has_code() -> None:
    assert ROOT / "README.md" in with_code(PAGES)
