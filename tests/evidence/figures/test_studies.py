"""The studies as a user gets them: sections, numbers, pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gtddp_jax.evidence.figures import figure1, figure4, figure6c, figure7b
from gtddp_jax.evidence.figures.intervals import mean_and_half
from gtddp_jax.evidence.figures.training import CURVES
from gtddp_jax.evidence.section import Options, Section
from gtddp_jax.training.data import DataError

STUDIES: dict[str, ModuleType] = {m.NAME: m for m in (figure1, figure4, figure6c, figure7b)}


def check(section: Section, out: Path) -> None:
    """What every section promises; the picture has something on it."""
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
@pytest.mark.parametrize("name", STUDIES)
def test_quick_version(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    section = STUDIES[name].study(Options(out=tmp_path, seeds=2, quick=True, say=said.append))
    assert section.name == name and said
    check(section, tmp_path)


Curves = Callable[..., dict[str, dict[str, np.ndarray]]]


def made(levels: dict[str, float]) -> Curves:
    """Curves of three seeds that end at these training losses."""

    def curves(*args: object, **options: object) -> dict[str, dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        return {
            method: {
                name: level * np.exp(0.01 * rng.normal(size=(3, 2))) / (1 + name.endswith("y"))
                for name in CURVES
            }
            for method, level in levels.items()
        }

    return curves


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((1.0, 0.5, 0.2, 0.1), "order is repeated: GT-EKFAC ends below EKFAC"),
        ((0.2, 0.5, 0.4, 0.1), "order is not repeated: GT-EKFAC ends above EKFAC"),
        ((0.5, 0.5, 0.4, 0.1), "order is not repeated: GT-EKFAC ends within noise of EKFAC"),
    ],
)
def test_figure7b_says_what_it_sees(levels: tuple[float, ...], verdict: str) -> None:
    assert verdict in figure7b.verdict(made(dict(zip(figure7b.METHODS, levels, strict=True)))())


def test_figure7b_shows_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = dict.fromkeys(figure7b.METHODS, 0.5) | {"GT-EKFAC": float("nan")}
    monkeypatch.setattr(figure7b, "curves", made(levels))
    section = figure7b.study(Options(out=tmp_path, say=lambda line: None))
    assert "order is not repeated" in section.text
    assert "GT-EKFAC diverged" in section.text
    check(section, tmp_path)


def test_figure1_says_what_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(case: figure1.Case, *rest: object) -> list[dict[str, Any]]:
        names = ("SGD", "GT-DDP", "GT-DDP as in the paper", figure1.PREVIOUS)
        rows = []
        for size in case.batches:
            last = size > case.largest
            ms: dict[str, Any] = {name: size * (i + 1.0) for i, name in enumerate(names)}
            ms |= {figure1.PREVIOUS: None if last else 8.0} if last or size > 2 else {}
            ratio = None if last else ms["GT-DDP"] / ms[figure1.PREVIOUS]
            rows.append({"batch": size, "ms": ms, "mib": ms})
            rows[-1] |= {"time_ratio": ratio, "memory_ratio": ratio}
        return rows

    monkeypatch.setattr(figure1, "measure", measure)
    section = figure1.study(Options(out=tmp_path, say=lambda line: None))
    assert "GT-DDP does not always need less memory" in section.text
    assert "at batch 16 it takes longer" in section.text
    check(section, tmp_path)


@pytest.mark.parametrize("module", [figure6c, figure7b])
def test_absent_data_is_an_error_when_nothing_is_left(module: ModuleType, tmp_path: Path) -> None:
    options = Options(out=tmp_path, datasets=("mnist",), data_dir=tmp_path, say=lambda line: None)
    with pytest.raises(DataError, match=r"none of the data sets can be used: mnist \(.*--from"):
        module.study(options)


def test_interval_is_that_of_student() -> None:
    mean, half = mean_and_half(np.array([[1.0], [2.0], [4.0]]))
    assert mean == 7 / 3
    assert abs(half[0] - 4.302652729911275 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)) < 1e-9
    assert np.isnan(mean_and_half(np.ones((1, 2)))[1]).all()


def test_one_seed_shows_no_order() -> None:
    found = made(dict.fromkeys(figure7b.METHODS, 1.0))()
    single = {m: {what: v[:1] for what, v in curves.items()} for m, curves in found.items()}
    said = figure7b.verdict(single)
    assert said.startswith("One seed shows no order") and "±" not in said
