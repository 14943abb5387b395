"""The map of the code in CONTRIBUTING.md agrees with the code: floors, imports, no cycles.

The rows of the map are the floors of the house, lowest first. Every import counts, also inside
functions and under `TYPE_CHECKING`.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGES = ("gtddp_jax", "gtddp_lab")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FOLDERS = [
    f"{package}/{path.name}/"
    for package in PACKAGES
    for path in sorted((ROOT / package).iterdir())
    if (path / "__init__.py").exists()
]
PUBLIC = "the public library"


def map_rows() -> dict[str, str]:
    """The map: what each folder imports, lowest floor first."""
    found = re.findall(r"^\| `([\w./]+/)` \| .* \| ?(.*?) ?\|$", TEXT, flags=re.M)
    assert len(found) == len(dict(found)) > 15
    return dict(found)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported_modules(path: Path) -> Iterator[str]:
    """Modules of this repository that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)


def folder_of(module: str) -> str:
    """The folder of the map that a module is in; the top of the library is `the public library`."""
    package, _, rest = module.partition(".")
    if rest and f"{package}/{rest.partition('.')[0]}/" in FOLDERS:
        return f"{package}/{rest.partition('.')[0]}/"
    return PUBLIC if package == "gtddp_jax" else f"{package}/"


def imported_folders(folder: str) -> set[str]:
    found = {folder_of(m) for f in (ROOT / folder).rglob("*.py") for m in imported_modules(f)}
    return found - {folder, "gtddp_lab/"}


def stated_folders(folder: str) -> set[str]:
    """The last column of a row: names of folders of the same package, or with their package."""
    package = folder.partition("/")[0]
    words = {word.strip(" `") for word in map_rows()[folder].split(",")} - {"", PUBLIC}
    named = {word if "/" in word else f"{package}/{word}/" for word in words}
    return named | ({PUBLIC} if PUBLIC in map_rows()[folder] else set())


def test_every_folder_and_file_exists() -> None:
    for folder in map_rows():
        assert (ROOT / folder).is_dir(), folder
    tops = "gtddp_jax|gtddp_lab|tests|docs|examples|benchmarks"
    for path in re.findall(rf"`((?:{tops})/[\w./]*)`", TEXT):
        assert (ROOT / path).exists(), path


def test_every_part_of_the_packages_is_on_the_map() -> None:
    missing = set(FOLDERS) - set(map_rows())
    assert not missing, f"add rows to the map of the code in CONTRIBUTING.md: {missing}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_what_the_map_says(folder: str) -> None:
    assert imported_folders(folder) == stated_folders(folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_never_go_up_a_floor(folder: str) -> None:
    floors = [PUBLIC if row == PUBLIC else row for row in map_rows() if row in FOLDERS]
    above = floors[floors.index(folder) :]
    assert not imported_folders(folder) & set(above)


def test_the_library_does_not_import_the_lab() -> None:
    for path in (ROOT / "gtddp_jax").rglob("*.py"):
        assert not [m for m in imported_modules(path) if m.startswith("gtddp_lab")], path


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {name: set(imported_modules(path)) - {name} for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the cycle


def test_the_lab_imports_only_public_names_of_the_library() -> None:
    """`import gtddp_jax`, or names that a package of it lists in `__all__`."""
    exported = {name: _listed(path) for name, path in MODULES.items() if path.name == "__init__.py"}
    for path in (ROOT / "gtddp_lab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gtddp_jax"):
                private = {alias.name for alias in node.names} - exported.get(
                    node.module or "", set()
                )
                assert not private, f"{path}: {node.module} does not export {private}"
            elif isinstance(node, ast.Import):
                inner = [a.name for a in node.names if a.name.startswith("gtddp_jax.")]
                assert not inner, f"{path}: {inner}"


def _listed(path: Path) -> set[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()
