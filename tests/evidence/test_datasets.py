"""Table 2 on the data sets that have to be fetched first, from small files in their true format."""

from pathlib import Path

import pytest

from gtddp_jax.evidence.paper import setting, table2
from gtddp_jax.evidence.section import Options
from gtddp_jax.training.data import official
from tests.training import originals


@pytest.mark.slow
@pytest.mark.parametrize("form", ["svhn mat", "cifar100 binary folder"])
def test_table_2(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write = originals.WRITERS[form]
    write(tmp_path)
    official.prepare(name, tmp_path, tmp_path / "data", own=True)
    tiny = {"network": "residual-mlp", "batch_size": 4, "epochs": 1}
    monkeypatch.setattr(setting, "SMALL", tiny)
    said: list[str] = []
    options = Options(
        tmp_path / "out", quick=True, datasets=(name,), data_dir=tmp_path / "data", say=said.append
    )
    section = table2.study(options)
    rows = section.data["rows"]
    assert [row["cell"]["variant"] for row in rows] == list(table2.VARIANTS)
    assert all(row["cell"]["dataset"] == name and row["seeds"] == 3 for row in rows)
    assert all(None not in row["train_loss"] for row in rows)
    assert f"| {name} | Adam | GT-DDP-Adam | training loss |" in section.text
