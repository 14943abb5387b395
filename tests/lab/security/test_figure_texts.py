"""Names of folders are shown as they are: never as formulas, never as control characters."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

from gtddp_lab.cli.main import main
from gtddp_lab.core.drawing import literal_label
from gtddp_lab.training import results
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord

NAMES = {
    r"a$\frac$b": r"a$\frac$b",
    "$x$": "$x$",
    r"\$1$": r"\$1$",
    "one $": "one $",
    "100 % & <b>": "100 % & <b>",
    "new\nline\x1b[31m": "new\ufffdline\ufffd[31m",
    "not text \udcff": "not text \ufffd",
}
"""Names, and how they are shown."""


def test_a_folder_of_any_name_is_drawn(
    tmp_path: Path,
    experiment: Experiment,
    records: list[EpochRecord],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / " ".join(NAMES)
    run.mkdir()
    document = results.results_document(experiment, records, {}, "finished")
    results.write_json(run / "results.json", document)
    assert main(["plot", str(run), str(run)]) == 0
    assert "not text \\udcff/curves.svg" in capsys.readouterr().out
    svg = (run / "curves.svg").read_text()
    ElementTree.fromstring(svg)  # well-formed
    shown = escape(" ".join(NAMES.values()))
    assert f"<!-- {shown}, {shown} -->" in svg
    assert f"<!-- Adam ({shown}) -->" in svg


def test_names_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "\x1b]0;title\x07").symlink_to("/")
    assert main(["plot", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error and "\x07" not in error
    assert "\ufffd]0;title\ufffd is a link out of the run's folder" in error


def test_labels_hide_formulas_from_matplotlib() -> None:
    from matplotlib.text import Text

    for text in NAMES.values():
        label: Any = Text(text=literal_label(text))
        shown, formula = label._preprocess_math(literal_label(text))
        assert (shown, formula) == (text, False)
