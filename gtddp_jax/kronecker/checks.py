"""Checks of arguments that KFAC and EKFAC share."""

from typing import Any

import jax


def positive(name: str, **values: Any) -> None:
    """Raises `ValueError` unless all values are numbers > 0; traced ones are not looked at."""
    for field, value in values.items():
        if isinstance(value, jax.Array):
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"{name}({field}={value!r}): give a number > 0.")


def one_of(name: str, field: str, value: Any, supported: tuple[str, ...]) -> None:
    """Raises `ValueError` unless `value` is one of `supported`."""
    if value not in supported:
        raise ValueError(f"{name}: invalid {field}: {value!r}. Supported: {supported}.")
