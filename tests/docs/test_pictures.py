"""The pictures of the documentation come from their scripts."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import RunPython

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def drawn_by(script: str) -> set[str]:
    """The pictures of a script: `name.png`, or `name_*.png`."""
    return {
        p.name
        for p in PICTURES.glob("*.png")
        if p.stem == script or p.stem.startswith(script + "_")
    }


SCRIPTS = sorted(p.stem for p in PICTURES.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_draws_its_pictures(run_python: RunPython, tmp_path: Path, name: str) -> None:
    script = Path(shutil.copy(PICTURES / f"{name}.py", tmp_path))
    quick = ["--quick"] if "--quick" in script.read_text(encoding="utf-8") else []
    result = run_python(str(script), *quick, timeout=300)
    assert result.returncode == 0, result.stderr
    drawn = {p.name: p.read_bytes()[:4] for p in tmp_path.glob("*.png")}
    assert drawn == dict.fromkeys(drawn_by(name), b"\x89PNG")


def test_every_picture_has_a_script() -> None:
    drawn = [name for script in SCRIPTS for name in sorted(drawn_by(script))]
    assert sorted(drawn) == sorted(p.name for p in PICTURES.glob("*.png"))
