"""Dispatch tables whose keys are also the error text."""

from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def look_up(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """Returns ``table[name]``.

    Args:
        table: Entries by name.
        name: The name asked for.
        what: What the table holds, for the error text: ``"dataset"``.

    Raises:
        ValueError: If there is no such entry; the text lists the names there are.
    """
    if name not in table:
        raise ValueError(f"Invalid {what}: {name!r}. Supported: {', '.join(table)}.")
    return table[name]
