"""Whether values that come from a file are what the code takes them for."""

import types
import typing
from dataclasses import fields
from typing import Any, TypeVar, Union

T = TypeVar("T")


def check(kind: Any, value: Any, name: str) -> None:
    """Checks a value from JSON against a type: plain ones, ``dict``, ``list``, ``tuple``, unions.

    A whole number counts as ``float``, a truth value neither as ``int`` nor as ``float``.

    Args:
        kind: The type.
        value: The value.
        name: Whose value it is, for the message.

    Raises:
        ValueError: If it is of another type.

    Example:
        >>> check(dict[str, float], {"a": 1}, "figures")
    """
    if not _is(kind, value):
        told = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
        raise ValueError(f"{name} is {type(value).__name__}, {told} is needed")


def made(kind: type[T], values: Any) -> T:
    """A dataclass from its fields by name.

    Raises:
        ValueError: If a field is missing, unknown or of another type than it is annotated with.
    """
    check(dict[str, Any], values, kind.__name__)
    hints = typing.get_type_hints(kind)
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"{kind.__name__} has no {name!r:.80}")
        check(hints[name], value, name)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _is(kind: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_is(each, value) for each in arguments)
    if origin is dict:
        key, entry = arguments
        return isinstance(value, dict) and all(
            _is(key, k) and _is(entry, v) for k, v in value.items()
        )
    if origin in (list, tuple):
        return isinstance(value, origin) and all(_is(arguments[0], entry) for entry in value)
    if kind is None or kind is type(None):
        return value is None
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(
            value, bool
        )
    return isinstance(value, kind)
