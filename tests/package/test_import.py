"""What `import gtddp_jax` brings along; benchmarks/import_time.py measures how long it takes."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import gtddp_jax as gt
from tests.conftest import RunPython

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "gtddp_jax"

LOADED = """
import sys
import flax.linen, jax, jaxtyping, optax
import wadler_lindig  # jaxtyping itself imports it, when shapes are put together
known = set(sys.modules)
import gtddp_jax
print(*sorted(set(sys.modules) - known))
"""


def declared(extra: str | None = None) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {re.split(r"[<>=\[]", entry)[0].replace("-", "_") for entry in listed}


def imported(folder: Path) -> Iterator[str]:
    """Top-level names of everything that a folder's modules import, inside functions too."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "").partition(".")[0]


def test_import_brings_the_core_dependencies_and_no_more(run_python: RunPython) -> None:
    result = run_python("-W", "error", "-c", LOADED)
    assert result.returncode == 0, result.stderr
    found = result.stdout.split()
    assert "gtddp_jax.sequential.optimizer" in found
    roots = {name.partition(".")[0] for name in found}
    assert roots - set(sys.stdlib_module_names) <= declared() | {"gtddp_jax"}
    assert not [name for name in found if name.startswith("gtddp_lab")]


def test_the_library_imports_what_it_declares_and_declares_what_it_imports() -> None:
    found = set(imported(LIBRARY)) - set(sys.stdlib_module_names) - {"gtddp_jax"}
    assert found == declared() - {"jaxlib"}


@pytest.mark.parametrize("extra", ["data", "train", "test", "docs", "dev"])
def test_extras_are_declared_once(extra: str) -> None:
    assert not declared(extra) & declared()


def test_unknown_names_are_attribute_errors() -> None:
    """Although `gt.nnx` is imported when it is first used."""
    assert gt.nnx.make_step is not None
    with pytest.raises(AttributeError, match="module 'gtddp_jax' has no attribute 'nothing'"):
        _ = gt.nothing
