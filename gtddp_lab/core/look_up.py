"""Lookup tables whose keys are also the list of choices in error messages."""

from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def look_up(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """Returns ``table[name]``.

    Args:
        table: Entries by name.
        name: The name to look up.
        what: What the table holds, for the error message: ``"dataset"``.

    Raises:
        ValueError: If the table has no such name; the message lists all names.
    """
    if name not in table:
        raise ValueError(f"Invalid {what}: {name!r}. Supported: {', '.join(table)}.")
    return table[name]
