"""Sphinx configuration. Build: sphinx-build -W -b html docs build/docs."""

from importlib.metadata import version as installed_version

project = "gtddp_jax"
author = "The gtddp_jax authors"
release = installed_version("gtddp-jax")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["pictures"]
html_theme = "furo"
html_title = f"gtddp_jax {release}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings: page.md#heading

default_role = "literal"  # docstrings put code in single backticks
autodoc_typehints = "none"  # the signature shows them where they say something
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
