"""Checks of numbers that come from a command line, a file or a caller."""

import math
from typing import Any


def check_integer(name: str, value: Any, least: int, most: int) -> None:
    """Checks that a value is an ``int`` within bounds; a truth value and a text are none.

    Args:
        name: Name of the value in the error message.
        value: The value.
        least: Smallest number allowed.
        most: Largest number allowed.

    Raises:
        ValueError: If it is not; the message names the bounds.

    Example:
        >>> check_integer("epochs", 3, 1, 10)
    """
    if type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"{name} must be a whole number from {least} to {most}, got {shown_value(value)}."
        )


def check_real(name: str, value: Any, least: float, most: float, or_zero: bool = False) -> None:
    """Checks that a value is a number within bounds; NaN, a truth value and a text are none.

    Args:
        name: Name of the value in the error message.
        value: The value.
        least: Smallest number allowed.
        most: Largest number allowed, possibly ``inf``.
        or_zero: Whether 0 is allowed as well.

    Raises:
        ValueError: If it is not; the message names the bounds.

    Example:
        >>> check_real("learning_rate", 0.1, 1e-30, 1e30)
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (least <= value <= most or (or_zero and value == 0)):
        return
    zero = "0 or " if or_zero else ""
    limit = "inf (no limit)" if most == math.inf else f"{most:g}"
    raise ValueError(
        f"{name} must be {zero}a number from {least:g} to {limit}, got {shown_value(value)}."
    )


def shown_value(value: Any) -> str:
    """The value in an error message: at most 60 characters."""
    if type(value) is not int or abs(value) < 10**30:
        return f"{value!r:.60}"
    try:
        return f"{value:g}"
    except OverflowError:
        return "a number beyond 1e308"
