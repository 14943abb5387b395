"""Texts from files and names of files, made safe for terminals, pages and pictures."""

import unicodedata


def printable_text(text: str, limit: int = 200) -> str:
    r"""Return text that is safe for terminals and pages, of at most ``limit`` characters.

    Control characters, which can steer a terminal or change the writing direction, become U+FFFD.

    >>> printable_text("a\x1b[31mb") == "a\ufffd[31mb"
    True
    """
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join("\ufffd" if unicodedata.category(char)[0] == "C" else char for char in shown)
