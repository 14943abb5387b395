"""Losses as text; texts from files, made safe for terminals, pages and pictures."""

import unicodedata


def printable_text(text: str, limit: int = 200) -> str:
    r"""Return text that is safe for terminals and pages, of at most ``limit`` characters.

    Control characters, which can steer a terminal or change the writing direction, become U+FFFD.

    >>> printable_text("a\x1b[31mb") == "a\ufffd[31mb"
    True
    """
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join("\ufffd" if unicodedata.category(char)[0] == "C" else char for char in shown)


def figure_text(value: float | None, form: str) -> str:
    """Format a figure, or say that it is not finite; large ones with two digits.

    >>> figure_text(0.25, ".4f"), figure_text(3.1e9, ".4f"), figure_text(None, ".4f")
    ('0.2500', '3.1e+09', 'not finite')
    """
    if value is None:
        return "not finite"
    return format(value, form if value < 1e4 else ".1e")


def loss_text(loss: float) -> str:
    """Return a loss with four decimals, or with two digits if it is very small or large.

    >>> loss_text(0.25), loss_text(0.000034), loss_text(1.9e17)
    ('0.2500', '3.4e-05', '1.9e+17')
    """
    return figure_text(loss, ".1e" if 0 < loss < 1e-3 else ".4f")
