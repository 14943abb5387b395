"""Sphinx configuration. Build: sphinx-build -W -b html docs build/docs."""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "gtddp_jax"
author = "The gtddp_jax authors"
release = installed_version("gtddp-jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "gallery",
    "quick_evidence",
    "sources",
]
exclude_patterns = ["pictures", "extensions", "quick/runs", "jupyter_execute"]
html_theme = "furo"
html_title = f"gtddp_jax {release}"

myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "cache"
nb_execution_timeout = 600  # seconds, for each cell
nb_execution_raise_on_error = True

myst_heading_anchors = 3  # links to headings: page.md#heading

autodoc_typehints = "none"  # signatures show them where they are informative
napoleon_numpy_docstring = False


def plain_markup(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert the plain markup of docstrings to reStructuredText.

    Docstrings write code in single backticks, as in Markdown, and do not escape bars.
    """
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = re.split(r"(`+[^`]+`+)", line)  # code at odd indices
        parts[::2] = [text.replace("|", r"\|") for text in parts[::2]]
        parts[1::2] = [f"``{code.strip('`')}``" for code in parts[1::2]]
        lines[i] = "".join(parts)


def setup(app: Any) -> None:
    """Register the hook before napoleon's own."""
    app.connect("autodoc-process-docstring", plain_markup, priority=400)
