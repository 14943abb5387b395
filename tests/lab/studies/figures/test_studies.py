"""The figure studies: sections, numbers and pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtddp_lab.data import DataError
from gtddp_lab.studies.figures import figure1, figure7b
from gtddp_lab.studies.figures.figure_trainer import MEASURED_CURVES
from gtddp_lab.studies.figures.intervals import mean_and_half_width
from gtddp_lab.studies.section import StudyOptions, StudySection
from gtddp_lab.studies.studies import STUDIES


def check(section: StudySection, out: Path) -> None:
    """Check what every section promises, and that its picture is not empty."""
    from matplotlib.image import imread

    json.dumps(section.data, allow_nan=False)
    assert section.pictures == (f"{section.name}.png", f"{section.name}.svg")
    assert f"]({section.name}.png)" in section.text and "*The paper" in section.text
    picture = imread(out / section.pictures[0])
    assert picture[..., :3].std() > 0.02
    assert (out / section.pictures[1]).read_text(encoding="utf-8").rstrip().endswith("</svg>")
    table = [line for line in section.text.splitlines() if line.startswith("|")]
    assert all(line.count("|") > 2 for line in table) and len(table) > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figure4", "figure6c", "figure7b"])
def test_quick_version(name: str, tmp_path: Path) -> None:
    progress: list[str] = []
    section = STUDIES[name](StudyOptions(out=tmp_path, seeds=2, quick=True, say=progress.append))
    assert section.name == name and progress
    check(section, tmp_path)


Curves = Callable[..., dict[str, dict[str, np.ndarray]]]


def fake_training(levels: dict[str, float]) -> Curves:
    """Make courses of three seeds that end at these training losses."""

    def curves(*args: object, **options: object) -> dict[str, dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        return {
            method: {
                name: level * np.exp(0.01 * rng.normal(size=(3, 2))) / (1 + name.endswith("y"))
                for name in MEASURED_CURVES
            }
            for method, level in levels.items()
        }

    return curves


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((1.0, 0.5, 0.2, 0.1), "order is reproduced: GT-EKFAC ends below EKFAC"),
        ((0.2, 0.5, 0.4, 0.1), "order is not reproduced: GT-EKFAC ends above EKFAC"),
        ((0.5, 0.5, 0.4, 0.1), "order is not reproduced: GT-EKFAC ends within noise of EKFAC"),
    ],
)
def test_figure7b_states_the_order(levels: tuple[float, ...], verdict: str) -> None:
    assert verdict in figure7b.order_verdict(
        fake_training(dict(zip(figure7b.EKFAC_METHODS, levels, strict=True)))()
    )


def test_figure7b_shows_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = dict.fromkeys(figure7b.EKFAC_METHODS, 0.5) | {"GT-EKFAC": float("nan")}
    monkeypatch.setattr(figure7b, "train_all_methods", fake_training(levels))
    section = figure7b.study_figure7b(StudyOptions(out=tmp_path, say=lambda line: None))
    assert "order is not reproduced" in section.text
    assert "GT-EKFAC diverged" in section.text
    check(section, tmp_path)


@pytest.mark.slow
def test_figure1_states_the_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(case: figure1.TimingCase, *rest: object) -> list[dict[str, Any]]:
        names = ("SGD", "GT-DDP", "GT-DDP as in the paper", figure1.PREVIOUS_DDP)
        rows = []
        for size in case.batches:
            last = size > case.largest
            ms: dict[str, Any] = {name: size * (i + 1.0) for i, name in enumerate(names)}
            ms |= {figure1.PREVIOUS_DDP: None if last else 8.0} if last or size > 2 else {}
            ratio = None if last else ms["GT-DDP"] / ms[figure1.PREVIOUS_DDP]
            rows.append({"batch": size, "ms": ms, "mib": ms})
            rows[-1] |= {"time_ratio": ratio, "memory_ratio": ratio}
        return rows

    monkeypatch.setattr(figure1, "measure_case", measure)
    section = figure1.study_figure1(StudyOptions(out=tmp_path, say=lambda line: None))
    assert "GT-DDP does not always need less memory" in section.text
    assert "at batch size 16 it takes longer" in section.text
    check(section, tmp_path)


@pytest.mark.parametrize("name", ["figure6c", "figure7b"])
def test_missing_data_is_an_error_when_nothing_is_left(name: str, tmp_path: Path) -> None:
    options = StudyOptions(
        out=tmp_path, datasets=("mnist",), data_dir=tmp_path, say=lambda line: None
    )
    with pytest.raises(DataError, match=r"none of the data sets can be used: mnist \(.*--from"):
        STUDIES[name](options)


def test_interval_is_that_of_student() -> None:
    mean, half = mean_and_half_width(np.array([[1.0], [2.0], [4.0]]))
    assert mean == 7 / 3
    assert abs(half[0] - 4.302652729911275 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)) < 1e-9
    assert np.isnan(mean_and_half_width(np.ones((1, 2)))[1]).all()


def test_one_seed_shows_no_order() -> None:
    found = fake_training(dict.fromkeys(figure7b.EKFAC_METHODS, 1.0))()
    single = {m: {what: v[:1] for what, v in curves.items()} for m, curves in found.items()}
    verdict = figure7b.order_verdict(single)
    assert verdict.startswith("One seed shows no order") and "±" not in verdict
