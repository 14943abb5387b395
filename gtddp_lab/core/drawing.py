"""Drawing with matplotlib, from a working directory and with names that may be a stranger's."""

import os
import sys

from gtddp_lab.core.printing import printable_text


def load_matplotlib() -> None:
    """Imports matplotlib without the ``matplotlibrc`` of the working directory.

    matplotlib prefers that file to the user's own. It can have all texts set by LaTeX, which is
    another program, and a named pipe in its place would block the import. Call this before every
    import of matplotlib.
    """
    if "matplotlib" in sys.modules:
        return
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir("/")  # the only way: matplotlib has no switch for it
        import matplotlib  # noqa: F401
    finally:
        os.fchdir(before)
        os.close(before)


def literal_label(text: str) -> str:
    r"""Returns a text that a figure shows as it is.

    matplotlib reads what stands between two dollar signs as a formula, and refuses one that it
    does not know.

    >>> literal_label(r"a$\frac$b") == r"a\$\frac\$b"
    True
    """
    return printable_text(text).replace("$", r"\$")
