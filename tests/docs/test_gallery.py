"""The notebooks of the gallery are the examples, cut into cells."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_cells_are_whole_statements() -> None:
    """Together they are the script without its docstring."""
    for package in ("jupytext", "nbformat"):
        pytest.importorskip(package)
    path = ROOT / "docs" / "extensions" / "gallery.py"
    spec = importlib.util.spec_from_file_location("gallery", path)
    assert spec is not None and spec.loader is not None
    gallery: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    for name, title in gallery.EXAMPLES.items():
        source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        cells = gallery.make_notebook(source, title).cells
        assert cells[0].source.startswith(f"# {title}\n")
        code = [ast.parse(cell.source).body for cell in cells[2:] if cell.cell_type == "code"]
        statements = [ast.dump(statement) for body in code for statement in body]
        assert statements == [ast.dump(s) for s in ast.parse(source).body[1:]], name
