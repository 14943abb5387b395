"""The gallery: examples as notebooks, executed when the site is built.

Each script of `examples/` named here becomes `docs/gallery/NAME.ipynb`, which is not kept in the
repository: its docstring is the text, its paragraphs are the cells. MyST-NB runs it in a process of
its own. If an example fails, the build fails.
"""

import ast
from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = "gallery"
EXAMPLES = {
    "any_model": "Any model in the implicit game",
    "optax_loop": "A residual network in an optax loop",
    "flax_linen": "Existing Flax models",
    "pinn_poisson": "A physics-informed network in the joint game",
    "cooperative_blocks": "EKFAC and cooperating players",
    "data_parallel": "Many devices",
}
"""Scripts of the gallery, with titles."""


def make_notebook(source: str, title: str) -> Any:
    """Return the notebook of a script: its docstring as text, then its paragraphs as cells."""
    module = ast.parse(source)
    text, docstring = ast.get_docstring(module), module.body[0]
    lines = source.splitlines()[docstring.end_lineno :]
    code = "\n".join(line for line in lines if not line.startswith("# ruff:")).lstrip("\n")
    notebook = jupytext.reads(code, fmt="py:light")
    # The arguments of the process are the kernel's.
    hidden = nbformat.v4.new_code_cell("import sys; del sys.argv[1:]")
    hidden.metadata["tags"] = ["remove-cell"]
    notebook.cells[:0] = [nbformat.v4.new_markdown_cell(f"# {title}\n\n{text}"), hidden]
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return notebook


def write_gallery(app: Any) -> None:
    """Write all notebooks; MyST-NB runs those whose code has changed."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for name, title in EXAMPLES.items():
        source = (Path(app.srcdir).parent / "examples" / f"{name}.py").read_text(encoding="utf-8")
        jupytext.write(make_notebook(source, title), folder / f"{name}.ipynb", fmt="ipynb")


def setup(app: Any) -> dict[str, Any]:
    """Register the notebooks before Sphinx collects the pages."""
    app.connect("config-inited", lambda app, config: write_gallery(app))
    return {"parallel_read_safe": True}
