"""Links from the pages to the code that they name.

A literal such as `tests/reference/test_propositions.py::test_proposition_2` becomes a link to the
file's source, which is added to the site. A file or a test that does not exist is a warning, so it
fails the strict build.
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
TOP = "tests|examples|benchmarks|docs|gtddp_jax|gtddp_lab"
NAMED = re.compile(rf"((?:{TOP})/[\w./-]+\.(?:py|sh|sbatch|yaml|toml))(?:::(\w+))?")

log = logging.getLogger(__name__)


def source_page(path: str) -> str:
    """Name of the page that shows a file."""
    return f"source/{path}"


def definition_line(path: str, name: str) -> int | None:
    """Line on which a function or class of a file is defined."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    definition = re.compile(rf"(?:def|class) {name}\b")
    return next((number for number, line in enumerate(lines, 1) if definition.match(line)), None)


def link_literals(app: Any, doctree: nodes.document, docname: str) -> None:
    """Turn the literals of one page into links."""
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
        line = definition_line(path, name) if name else 1
        if line is None:
            log.warning("no %s in %s", name, path, location=node)
            continue
        app.gtddp_sources.add(path)
        target = app.builder.get_relative_uri(docname, source_page(path))
        reference = nodes.reference("", "", internal=True, refuri=f"{target}#line-{line}")
        reference["reftitle"] = node.astext()
        node.replace_self(reference)
        reference += nodes.literal("", name or path)


def source_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Pages of the linked files, with syntax highlighting."""
    for path in sorted(app.gtddp_sources):
        text = (ROOT / path).read_text(encoding="utf-8")
        lexer = guess_lexer_for_filename(path, text)
        formatter = HtmlFormatter(lineanchors="line", cssclass="highlight")
        body = f"<h1>{path}</h1>{highlight(text, lexer, formatter)}"
        yield source_page(path), {"title": path, "body": body}, "page.html"


def setup(app: Any) -> dict[str, bool]:
    """Register both hooks."""
    app.gtddp_sources = set()
    app.connect("doctree-resolved", link_literals)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
