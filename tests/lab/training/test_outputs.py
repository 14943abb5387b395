"""Summary, results file and curves of a comparison."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gtddp_lab.training import results
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.plots import (
    BANDS_NOTE,
    EPOCH_AXIS,
    PANELS,
    TIME_AXIS,
    MethodCurves,
    curves_of,
    draw_curves,
)
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.run_summary import summarize_records
from tests.default_run import quick_cases


def test_a_summary_holds_means_over_seeds(records: list[EpochRecord]) -> None:
    base, game = summarize_records(records)
    assert (base.method, base.seeds, base.epochs) == ("adam", 2, 2)
    np.testing.assert_allclose(base.final_loss, 0.5)
    np.testing.assert_allclose(base.average_loss, 1.5)
    np.testing.assert_allclose(base.validation_accuracy, 0.94)
    assert base.validation_error is not None
    np.testing.assert_allclose(base.validation_error, 0.01)
    np.testing.assert_allclose(base.seconds, 1.0)
    assert (game.method, game.epochs) == ("gtddp-adam", 1)  # the shortest run


def test_one_seed_has_no_standard_error(records: list[EpochRecord]) -> None:
    assert summarize_records(records[:1])[0].validation_error is None


def test_a_summary_counts_skipped_steps(records: list[EpochRecord]) -> None:
    skipping = [replace(r, report={"skipped_steps": 2.0}) for r in records]
    assert [summary.skipped_steps for summary in summarize_records(skipping)] == [4, 4]


def test_results_are_read_back(
    tmp_path: Path, experiment: Experiment, records: list[EpochRecord]
) -> None:
    path = tmp_path / "results.json"
    broken = replace(records[1], train_loss=float("nan"), report={"ratio": [float("inf")]})
    told = [records[0], broken]
    results.write_json(
        path, results.results_document(experiment, told, {"adam": 1.0}, "running", [{"git": 1}])
    )
    same, read, content = results.read_results(path)
    assert same == experiment
    assert repr(read) == repr(told)  # nan is not equal to itself
    assert content["status"] == "running"
    assert content["starts"] == [{"git": 1}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a results file"),
        ("{}", "is not a results file"),
        ('{"format": 1}', "has format 1; this version reads format 3"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(results.ResultsError, match=message):
        results.read_results(tmp_path / "results.json")


def test_numbers_that_are_not_finite_leave_the_json_valid(
    tmp_path: Path, experiment: Experiment, records: list[EpochRecord]
) -> None:
    path = tmp_path / "results.json"
    broken = replace(records[0], train_loss=float("nan"), report={"ratio": [float("inf")]})
    results.write_json(path, results.results_document(experiment, [broken], {}, "finished"))
    epoch = json.loads(path.read_text(), parse_constant=pytest.fail)["epochs"][0]
    assert np.isnan(float(epoch["train_loss"]))
    assert float(epoch["report"]["ratio"][0]) == float("inf")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write_json(path, {"epochs": 1})
    with pytest.raises(TypeError):
        results.write_json(path, {"epochs": object()})
    assert json.loads(path.read_text()) == {"epochs": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    results.write_json(tmp_path / "results.json", {})
    (tmp_path / "ordinary").touch()
    modes = {file.stat().st_mode for file in tmp_path.iterdir()}
    assert len(modes) == 1


def test_an_unknown_status_is_refused(experiment: Experiment) -> None:
    with pytest.raises(ValueError, match=r"Invalid status: 'x'\. Supported: running, finished"):
        results.results_document(experiment, [], {}, "x")


@pytest.mark.parametrize("count", quick_cases([0, 1, 7]))
def test_curves_are_drawn_for_any_number_of_epochs(
    tmp_path: Path, experiment: Experiment, records: list[EpochRecord], count: int
) -> None:
    path = tmp_path / "curves.png"
    draw_curves(path, "title", curves_of(experiment, records[:count]))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_as_svg(
    tmp_path: Path, experiment: Experiment, records: list[EpochRecord]
) -> None:
    path = tmp_path / "curves.svg"
    draw_curves(path, "title", curves_of(experiment, records))
    text = path.read_text()
    assert "<svg" in text
    for shown in (BANDS_NOTE, EPOCH_AXIS, TIME_AXIS):
        assert f"<!-- {shown} -->" in text


def test_a_band_spans_the_seeds_over_the_time_of_their_steps(records: list[EpochRecord]) -> None:
    from matplotlib.figure import Figure

    slower = [replace(r, seconds=r.seconds * (1 + r.seed), train_loss=r.seed) for r in records[:2]]
    slower += [
        replace(r, seconds=r.seconds * (1 + r.seed), train_loss=r.seed) for r in records[4:6]
    ]
    axes = Figure().subplots()
    (panel,) = (panel for panel in PANELS if panel.horizontal == TIME_AXIS)
    panel.draw_method(axes, MethodCurves("Adam", slower), "black")
    (line,), (band,) = axes.lines, axes.collections
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [2.5, 5.0])  # 0.5 s times (4 + 6) / 2
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [4.0, 4.0])
    extent = band.get_datalim(axes.transData).extents
    np.testing.assert_allclose(extent, [2.5, 3.0, 5.0, 5.0])
