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


def loss_text(loss: float) -> str:
    """Return a loss with four decimals, or with two digits if it is very small or large.

    >>> loss_text(0.25), loss_text(0.000034), loss_text(1.9e17)
    ('0.2500', '3.4e-05', '1.9e+17')
    """
    return f"{loss:.1e}" if 0 < loss < 1e-3 or loss >= 1e4 else f"{loss:.4f}"
