"""Links from the pages to the code that they name.

A literal such as `tests/core/test_propositions.py::test_proposition_2` or `examples/optax_loop.py`
becomes a link to the file's source, which is added to the site. A file or a test that does not
exist is a warning, and so fails the strict build.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import guess_lexer_for_filename
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
TOP = "tests|examples|benchmarks|docs|gtddp_jax|gtddp_cli"
NAMED = re.compile(rf"((?:{TOP})/[\w./-]+\.(?:py|sh|sbatch|yaml|toml))(?:::(\w+))?")

log = logging.getLogger(__name__)


def page_of(path: str) -> str:
    """The name of the page with a file's source."""
    return f"source/{path}"


def line_of(path: str, name: str) -> int | None:
    """The line on which a function or class of a file begins."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    begins = re.compile(rf"(?:def|class) {name}\b")
    return next((i for i, line in enumerate(lines, 1) if begins.match(line)), None)


def link(app: Any, doctree: nodes.document, docname: str) -> None:
    """Makes links of the literals of one page."""
    if app.builder.format != "html":
        return
    for node in list(doctree.findall(nodes.literal)):
        found = NAMED.fullmatch(node.astext())
        if found is None or isinstance(node.parent, nodes.reference):
            continue
        path, name = found.groups()
        if not (ROOT / path).is_file():
            log.warning("no such file: %s", path, location=node)
            continue
        line = line_of(path, name) if name else 1
        if line is None:
            log.warning("no %s in %s", name, path, location=node)
            continue
        app.gtddp_sources.add(path)
        target = app.builder.get_relative_uri(docname, page_of(path))
        reference = nodes.reference("", "", internal=True, refuri=f"{target}#line-{line}")
        reference["reftitle"] = node.astext()
        node.replace_self(reference)
        reference += nodes.literal("", name or path)


def pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The sources that were linked to, highlighted."""
    for path in sorted(app.gtddp_sources):
        text = (ROOT / path).read_text(encoding="utf-8")
        lexer = guess_lexer_for_filename(path, text)
        formatter = HtmlFormatter(lineanchors="line", cssclass="highlight")
        body = f"<h1>{path}</h1>{highlight(text, lexer, formatter)}"
        yield page_of(path), {"title": path, "body": body}, "page.html"


def setup(app: Any) -> dict[str, bool]:
    """Registers both."""
    app.gtddp_sources = set()
    app.connect("doctree-resolved", link)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
