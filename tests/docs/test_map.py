"""The map of the code in CONTRIBUTING.md agrees with the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LIBRARY = ROOT / "gtddp_jax"
PARTS = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
WORDS = {"the public library"}


def rows() -> dict[str, str]:
    """The map: what is imported, by folder."""
    found = re.findall(r"^\| `([\w./]+/)` \| .* \| ?(.*?) ?\|$", TEXT, flags=re.M)
    assert len(found) == len(dict(found)) > 15
    return dict(found)


def imported(folder: Path) -> set[str]:
    """The other parts of the library that the modules of a folder import when they are loaded."""
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gtddp_jax"):
                whole = node.module == "gtddp_jax"
                names = [a.name for a in node.names] if whole else [str(node.module).split(".")[1]]
                found |= set(names)
            elif isinstance(node, ast.Import):
                for name in (a.name for a in node.names):
                    if name.split(".")[0] == "gtddp_jax":
                        found.add(
                            "the public library" if name == "gtddp_jax" else name.split(".")[1]
                        )
    return (found & (PARTS | WORDS)) - {folder.name}


def test_every_folder_and_file_exists() -> None:
    for folder in rows():
        assert (ROOT / folder).is_dir(), folder
    for path in re.findall(
        r"`((?:gtddp_jax|gtddp_cli|tests|docs|examples|benchmarks)/[\w./]*)`", TEXT
    ):
        assert (ROOT / path).exists(), path


def test_every_part_of_the_library_is_on_the_map() -> None:
    missing = {f"gtddp_jax/{part}/" for part in PARTS} - set(rows())
    assert not missing, f"add rows to the map of the code in CONTRIBUTING.md: {missing}"


ENGINE = sorted(PARTS - {"evidence"})
OUTSIDE = ["gtddp_jax/evidence/", "gtddp_cli/"]


def stated(folder: str) -> set[str]:
    return {word.strip(" `") for word in rows()[folder].split(",")} - {""}


@pytest.mark.parametrize("part", ENGINE)
def test_the_engine_imports_what_the_map_says(part: str) -> None:
    assert imported(LIBRARY / part) == stated(f"gtddp_jax/{part}/")


@pytest.mark.parametrize("folder", OUTSIDE)
def test_what_stands_outside_imports_no_more(folder: str) -> None:
    assert imported(ROOT / folder) <= stated(folder)
