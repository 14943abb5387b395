"""The page of what was tried names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`([a-z0-9_/]+/test_[a-z0-9_]+\.py)(?:::(\w+))?`")


def test_every_row_names_a_test() -> None:
    page = (ROOT / "docs" / "tried.md").read_text(encoding="utf-8")
    named = NAMED.findall(page)
    rows = [line for line in page.splitlines() if re.match(r"\| (?!---|tried|changed)", line)]
    assert len(named) == len(rows) > 40
    for path, name in named:
        source = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert f"def {name}(" in source if name else "def test_" in source, (path, name)
