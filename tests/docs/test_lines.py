"""Lines of the documentation are at most 120 columns; tables and code cannot be wrapped."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
COLUMNS = 120


def wrapped_lines(page: Path) -> list[tuple[int, str]]:
    """The lines of a page outside tables and code, with their numbers."""
    is_code, lines = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith("|"):
            lines.append((number, line))
    return lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_are_at_most_120_columns(page: Path) -> None:
    too_long = [(number, len(line)) for number, line in wrapped_lines(page) if len(line) > COLUMNS]
    assert not too_long
