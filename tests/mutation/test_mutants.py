"""The mutants of a few lines are the ones that a reader would write."""

import ast

import pytest

from tests.conftest import RunPython
from tests.mutation import selection
from tests.mutation.mutants import find_mutants

EXPECTED = {
    "a + b": {"(a) - (b)", "(a)", "(b)"},
    "a - b": {"(a) + (b)", "(a)", "-(b)"},
    "-a": {"(a)"},
    "a < b": {"(a) <= (b)", "(a) > (b)"},
    "step + 1": {"(step) - (1)", "(step)", "(1)", "step + 2"},
    "jnp.where(a, b, c)": {"jnp.where(a, c, b)"},
    "lax.stop_gradient(a)": {"(a)"},
    "jnp.conj(a)": {"(a)"},
    "a.T": {"(a)"},
    "jnp.minimum(a, b)": {"jnp.maximum(a, b)"},
    "dot(a, b)": {"dot(b, a)"},
    "zip(a, b, strict=True)": set(),
}


@pytest.mark.parametrize("expression", EXPECTED)
def test_mutants_of_an_expression(expression: str) -> None:
    source = f'"""Größe."""\nx: int = {expression}\n'
    found = {mutant.apply(source).split("= ", 1)[1].rstrip() for mutant in find_mutants(source)}
    assert found == EXPECTED[expression]


def test_messages_annotations_and_checks_are_left_alone() -> None:
    source = (
        "def check_rate(rate: float) -> None:\n    if rate < 0:\n        raise ValueError('x')\n"
        "def f(x: A | B) -> None:\n    raise ValueError(f'{1 + 1}')\n"
    )
    assert find_mutants(source) == []


@pytest.mark.slow
def test_mutants_of_the_library_are_valid_programs() -> None:
    """In one file of each folder; every file has tests of its own."""
    for path in selection.mutated_files()[::20]:
        source = (selection.ROOT / path).read_text(encoding="utf-8")
        for mutant in find_mutants(source):
            ast.parse(mutant.apply(source))
        assert selection.quick_tests(path) and selection.more_tests(path)


@pytest.mark.slow
def test_the_selected_tests_exist(run_python: RunPython) -> None:
    chosen = {
        test
        for table in (selection.QUICK, selection.MORE)
        for tests in table.values()
        for test in tests
    }
    pytest_arguments = ("--collect-only", "-q", "-m", "", "-p", "no:cacheprovider")
    result = run_python("-m", "pytest", *pytest_arguments, *sorted(chosen), timeout=300)
    assert result.returncode == 0, result.stdout[-2000:]
