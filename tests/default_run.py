"""Which cases of a test belong to the default run; the rule is in CONTRIBUTING.md."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick_cases(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """The cases of `pytest.mark.parametrize`, slow but for those that are chosen.

    Args:
        cases: the cases; one of several arguments is a tuple.
        *chosen: the cases of the default run; without any, the first.

    Raises:
        ValueError: a chosen case does not exist.
    """
    listed = list(cases)
    missing = [case for case in chosen if case not in listed]
    if missing:
        raise ValueError(f"{missing} are not among the cases {listed}.")
    kept = [case in chosen for case in listed] if chosen else [True] + [False] * len(listed)
    return [case if keep else _slow(case) for case, keep in zip(listed, kept, strict=False)]


def _slow(case: Any) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow], id=case.id)
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
