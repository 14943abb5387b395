"""Every warning of the library has one category, which users can filter."""

import ast
from pathlib import Path

import gtddp_jax as gt

LIBRARY = Path(gt.__file__).parent


def test_all_warnings_have_the_category() -> None:
    categories = [
        ast.unparse(call.args[1]) if len(call.args) > 1 else ""
        for path in sorted(LIBRARY.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("warnings.warn", "warn")
    ]
    assert len(categories) >= 2 and set(categories) == {"GameWarning"}


def test_the_category_is_one_that_python_shows() -> None:
    assert issubclass(gt.GameWarning, UserWarning) and gt.GameWarning is not UserWarning
