"""Tuned against tuned, on runs that are made up."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from gtddp_lab.studies import tuned
from gtddp_lab.studies.cell_runner import KEPT_FIGURES, CellResult
from gtddp_lab.studies.cells import Cell
from gtddp_lab.studies.section import StudyOptions
from gtddp_lab.studies.tuned_grid import TUNING_SEEDS

BEST = {"base": 0.03, "implicit": 0.1}
COST = {"base": 1.0, "implicit": 1.5}


class FakeRunner:
    """Losses that depend on rate, seed and epochs; the game is better by a factor of e."""

    def __init__(self) -> None:
        self.seen: list[tuple[Cell, int]] = []

    def run_cells(self, cells: Iterable[Cell], seeds: int) -> dict[Cell, CellResult]:
        return {cell: self._result(cell, seeds) for cell in cells}

    def _result(self, cell: Cell, seeds: int) -> CellResult:
        self.seen.append((cell, seeds))
        distance = abs(np.log(cell.rate / BEST[cell.variant]))
        # Tuning seeds would show another best rate than the reported ones.
        level = -1.0 * (cell.variant == "implicit") + distance - 0.1 * cell.epochs
        losses = np.exp(level + 0.01 * np.arange(seeds))
        figures = {name: np.tile(losses[:, None], (1, cell.epochs)) for name in KEPT_FIGURES}
        return CellResult(cell, tuple(range(seeds)), figures, (0,) * seeds, (0.0,) * seeds)

    def step_costs(self, cells: Sequence[Cell]) -> dict[Cell, float]:
        return {cell: COST[cell.variant] for cell in cells}


def test_methods_are_tuned_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = FakeRunner()
    monkeypatch.setattr(tuned, "cell_runner", lambda options: runner)
    section = tuned.study_tuned(StudyOptions(tmp_path, quick=True))
    base, game = section.data["problems"]["digits"]
    assert (base["cell"]["rate"], game["cell"]["rate"]) == (0.03, 0.1)
    assert base["log_ratio_equal_epochs"][0] == base["log_ratio_equal_time"][0] == 0
    assert game["log_ratio_equal_epochs"][0] == pytest.approx(-1.0)
    # While the game trains for two epochs, the base trains for three.
    assert (base["equal_time_epochs"], game["equal_time_epochs"]) == (3, 2)
    assert game["log_ratio_equal_time"][0] == pytest.approx(-1.0 + 0.1)
    # The reported seeds are not those of the tuning.
    assert len(game["train_loss"]) == 3
    assert game["train_loss"][0] == pytest.approx(np.exp(-1.2 + 0.02))
    assert "-1.00" in section.text and "| 0.03 |" in section.text
    assert {count for _, count in runner.seen} == {TUNING_SEEDS, TUNING_SEEDS + 3}
    assert all((tmp_path / name).stat().st_size > 1000 for name in section.pictures)


def test_a_data_set_may_have_no_problem(tmp_path: Path) -> None:
    section = tuned.study_tuned(StudyOptions(tmp_path, datasets=("mnist",)))
    assert section.data == {"problems": {}, "suite": {}}
    assert section.text == "" and section.pictures == ()


def test_rates_near_the_best() -> None:
    losses = {0.01: 1.2, 0.03: 1.0, 0.1: 1.24, 0.3: np.inf}
    assert tuned.near_best_rates(losses) == (0.01, 0.1)
    assert tuned.near_best_rates({0.1: 1.0, 0.3: 2.0}) == (0.1, 0.1)
