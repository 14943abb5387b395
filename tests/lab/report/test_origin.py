"""The source of a run: of this version, and of older ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gtddp_lab.report.collect import read_run
from gtddp_lab.report.origin import start_facts
from tests.lab.report.report_runs import write_run


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ({"source": {"commit": "0123", "digest": "abcd"}}, "commit 0123, digest of the code abcd"),
        (
            {"source": {"commit": None, "digest": "a"}},
            "not in a git checkout, digest of the code a",
        ),
        ({"git": {"commit": "0123", "changed": []}}, "commit 0123, no changes"),
        ({"git": None}, "not in a git repository"),
    ],
)
def test_the_source_of_a_start(start: dict[str, Any], text: str, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    (facts,) = start_facts([replace(run, starts=(start,))])
    assert dict(facts.facts)["source"] == text
