"""Choices of options, read from the tables that define them.

A table of networks, terminal models or studies is the only list of its names. Importing a table
imports JAX as well, which takes seconds; to answer ``--help`` and reject wrong names at once, the
names are read from the source of the table's module instead.
"""

import ast
from importlib.util import find_spec
from pathlib import Path


def table_names(module: str, table: str) -> tuple[str, ...]:
    """Returns the keys of a lookup table without importing its module.

    Args:
        module: Name of the module that assigns the table.
        table: Name of the table; its value must be a dict literal with string keys.

    Raises:
        LookupError: If the module has no such table.

    Example:
        >>> table_names("gtddp_lab.training.methods", "GAMES")
        ('none', 'sequential', 'implicit')
    """
    for node in ast.parse(_source_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Dict):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if any(isinstance(target, ast.Name) and target.id == table for target in targets):
                return tuple(ast.literal_eval(key) for key in node.value.keys if key is not None)
    raise LookupError(f"{module} assigns no dict literal to {table}.")


def _source_file(module: str) -> Path:
    package, *parts = module.split(".")
    # Only the top-level package is looked up: find_spec imports the parents of a submodule.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise LookupError(f"{package} is not installed.")
    path = Path(spec.origin).parent.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
