"""Stored results of studies: what is damaged or no file is computed again, never trusted."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gtddp_lab.studies.cell_runner import KEPT_FIGURES, CellRunner
from gtddp_lab.studies.cells import default_cell

CELL = default_cell("digits", "adam", epochs=2)
RESULT: dict[str, Any] = {name: [1.0, None] for name in KEPT_FIGURES}
RESULT |= {"skipped": 0, "seconds": 1.5, "seed": 0}
DAMAGED: dict[str, Any] = {
    "a number": 5,
    "a list": [RESULT],
    "a number for a list": RESULT | {"train_loss": 2},
    "texts": RESULT | {"validation_loss": ["a", "b"]},
    "another number of epochs": RESULT | {"validation_accuracy": [0.5]},
    "a missing figure": {name: value for name, value in RESULT.items() if name != "seconds"},
    "a truth value": RESULT | {"skipped": True},
}


def read(folder: Path, text: str) -> Any:
    (folder / f"{CELL.result_key(0)}.json").write_text(text)
    return CellRunner(folder)._read_run(CELL, 0)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_results_are_not_used(name: str, tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(RESULT)) == RESULT
    assert read(tmp_path, json.dumps(DAMAGED[name])) is None


def test_files_that_are_not_results(tmp_path: Path) -> None:
    for text in ("{", "NaN", 100_000 * "[", json.dumps(RESULT).replace("1.5", "1e999")):
        assert read(tmp_path, text) is None
    path = tmp_path / f"{CELL.result_key(0)}.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse
    assert CellRunner(tmp_path)._read_run(CELL, 0) is None
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    assert CellRunner(tmp_path)._read_run(CELL, 0) is None
