"""Type checks for values that were read from JSON files."""

import types
import typing
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar, Union


class _Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


DataclassType = TypeVar("DataclassType", bound=_Dataclass)


def check_type(expected: Any, value: Any, name: str) -> None:
    """Checks a JSON value against a type: plain types, ``dict``, ``list``, ``tuple``, unions.

    An integer is accepted as ``float``; a boolean is neither an ``int`` nor a ``float``.

    Args:
        expected: The type.
        value: The value.
        name: Name of the value in the error message.

    Raises:
        ValueError: If the value has another type.

    Example:
        >>> check_type(dict[str, float], {"a": 1}, "figures")
    """
    if not _has_type(expected, value):
        is_class = isinstance(expected, type)
        wanted = getattr(expected, "__name__", str(expected)) if is_class else str(expected)
        raise ValueError(f"{name} is {type(value).__name__}, {wanted} is needed")


def dataclass_from_json(cls: type[DataclassType], values: Any) -> DataclassType:
    """Builds a dataclass from a JSON object with its fields.

    Raises:
        ValueError: If a field is missing, unknown, or not of its annotated type.
    """
    check_type(dict[str, Any], values, cls.__name__)
    hints = typing.get_type_hints(cls)
    names = {field.name for field in fields(cls)}
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"{cls.__name__} has no {name!r:.80}")
        check_type(hints[name], value, name)
    try:
        return cls(**values)
    except TypeError as error:  # a required field is missing
        raise ValueError(str(error)) from error


def _has_type(expected: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_has_type(option, value) for option in arguments)
    if origin is dict:
        key_type, entry_type = arguments
        return isinstance(value, dict) and all(
            _has_type(key_type, key) and _has_type(entry_type, entry)
            for key, entry in value.items()
        )
    if origin in (list, tuple):  # homogeneous ones only: list[T] and tuple[T, ...]
        return isinstance(value, origin) and all(_has_type(arguments[0], entry) for entry in value)
    if expected is None or expected is type(None):
        return value is None
    if expected in (int, float):
        accepted = int if expected is int else int | float
        # bool is a subclass of int in Python, but not a number in JSON.
        return isinstance(value, accepted) and not isinstance(value, bool)
    return isinstance(value, expected)
