"""Reads the tables of the pages."""

import re


def table_rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, headings and rules included."""
    rows = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows]
