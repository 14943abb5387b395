"""`gtddp reproduce`: a report with text, numbers and pictures."""

import json
from pathlib import Path

import pytest

from gtddp_lab.cli.main import main
from gtddp_lab.studies.paper import setting
from gtddp_lab.studies.paper.published import TABLE_2
from gtddp_lab.studies.pictures import draw_intervals
from gtddp_lab.studies.statistics import Estimate
from gtddp_lab.studies.studies import STUDIES


@pytest.mark.slow
def test_a_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, numbers and pictures."""
    assert main(["reproduce", "figure1", "--quick", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Evidence, quick version") and "](figure1.png)" in text
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["quick"] and found["studies"]["figure1"]["data"]["cases"]
    assert (tmp_path / "figure1.png").stat().st_size > 1000


@pytest.mark.slow
def test_quick_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    studies = ["table2", "figure6", "figure8", "defaults"]
    command = ["reproduce", *studies, "--quick", "--out", str(tmp_path)]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == str(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "quick version" in text and "0.0182 → 0.0081" in text  # the paper's Adam on DIGITS
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found["studies"]) == studies
    for row in found["studies"]["table2"]["data"]["rows"]:
        assert row["seeds"] == 3 and row["cell"]["dataset"] == "digits"
    for name in found["studies"]["figure6"]["pictures"]:
        assert (tmp_path / name).stat().st_size > 1000

    assert main(command) == 0  # all results are stored: nothing is trained
    assert " runs, " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "invalid choice"),
        (["table2", "--seeds", "1"], "--seeds must be a whole number from 2 to 10000, got 1."),
        (["table2", "--datasets", "mnist", "--data-dir", "nowhere"], "mnist"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_papers_table_is_complete() -> None:
    assert all(tuple(row) == setting.PAPER_BASES for row in TABLE_2.values())
    assert {"table2", "figure1", "figure4", "figure6", "figure6c", "figure7b", "figure8"} <= set(
        STUDIES
    )


def test_picture_of_intervals_is_drawn(tmp_path: Path) -> None:
    known, unknown = Estimate(-0.1, -0.2, 0.05), Estimate(float("nan"), float("nan"), float("nan"))
    names = draw_intervals(
        [("one", [known]), ("two", [unknown])], {"loss": -1}, tmp_path, "picture"
    )
    assert names == ("picture.png", "picture.svg")
    svg = (tmp_path / "picture.svg").read_text()
    assert len(svg) > 3000 and (tmp_path / "picture.png").stat().st_size > 2000
