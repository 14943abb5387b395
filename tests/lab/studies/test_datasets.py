"""Table 2 on data sets that are not part of a package, from small files in their formats."""

from pathlib import Path

import pytest

from gtddp_lab.data import official
from gtddp_lab.studies.paper import setting, table2
from gtddp_lab.studies.section import StudyOptions
from tests.lab.data import originals


@pytest.mark.slow
def test_table_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write = originals.WRITERS["svhn mat"]
    write(tmp_path)
    official.prepare_official(name, tmp_path, tmp_path / "data", custom_data=True)
    tiny = {"network": "residual-mlp", "batch_size": 4, "epochs": 1}
    monkeypatch.setattr(setting, "QUICK_SETTING", tiny)
    progress: list[str] = []
    options = StudyOptions(
        tmp_path / "out",
        quick=True,
        datasets=(name,),
        data_dir=tmp_path / "data",
        say=progress.append,
    )
    section = table2.study_table2(options)
    rows = section.data["rows"]
    assert [row["cell"]["variant"] for row in rows] == list(table2.TABLE2_VARIANTS)
    assert all(row["cell"]["dataset"] == name and row["seeds"] == 3 for row in rows)
    assert all(None not in row["train_loss"] for row in rows)
    assert f"| {name} | Adam | GT-DDP-Adam | training loss |" in section.text
