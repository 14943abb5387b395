"""The pictures of the documentation come from their scripts."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import RunPython

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


@pytest.mark.parametrize(
    "name", ["the_game", "cooperation", pytest.param("what_the_weights_do", marks=pytest.mark.slow)]
)
def test_a_script_draws_its_picture(run_python: RunPython, tmp_path: Path, name: str) -> None:
    script = shutil.copy(PICTURES / f"{name}.py", tmp_path)
    result = run_python(str(script), timeout=400)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_every_picture_has_a_script() -> None:
    assert {p.stem for p in PICTURES.glob("*.png")} == {p.stem for p in PICTURES.glob("*.py")}
