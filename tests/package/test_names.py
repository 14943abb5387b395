"""Public names are unique: one name has one meaning in the library and the lab together."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gtddp_jax", "gtddp_lab")


def test_public_functions_and_classes_have_unique_names() -> None:
    files = defaultdict(set)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                    files[node.name].add(path.relative_to(ROOT).as_posix())
    assert not {name: paths for name, paths in files.items() if len(paths) > 1}
