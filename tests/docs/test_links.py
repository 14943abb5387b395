"""Links of the pages: to files, to headings, and to other sites (form only)."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = sorted(ROOT.glob("*.md"))
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]
EXTERNAL = re.compile(r"https://[\w-]+(\.[\w-]+)+(/[\w./~%#?=&+-]*)?")


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]+`", "`code`", text)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


@cache
def anchors(page: Path) -> set[str]:
    """Anchors that GitHub and MyST derive from the headings, and explicit targets."""
    text = page.read_text(encoding="utf-8")
    included = re.findall(r"^```\{include\} (\S+)$", text, flags=re.M)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    seen: Counter[str] = Counter()
    found = set(re.findall(r"^\((\S+)\)=$", text, flags=re.M))
    for path in included:
        found |= anchors((page.parent / path).resolve())
    for heading in re.findall(r"^#{1,3} (.+)$", text, flags=re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            assert EXTERNAL.fullmatch(link), link
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert target.suffix == ".md" and anchor in anchors(target.resolve()), link


def test_there_are_links_and_anchors() -> None:
    found = {link for page in PAGES for link in links(page)}
    assert len(found) > 50
    assert any("#" in link for link in found) and any("://" in link for link in found)
    assert "3-the-collapse" in anchors(ROOT / "docs" / "mathematics.md")


def test_every_page_is_in_the_navigation_once() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    entries = "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.S)).splitlines()
    listed = [line for line in entries if line and not line.startswith(":")]
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    pages.add("quick/report")  # written by the build, and so are the notebooks
    pages |= {f"gallery/{name}" for name in gallery_examples()}
    assert sorted(listed) == sorted(pages)


def gallery_examples() -> list[str]:
    """The examples that `docs/extensions/gallery.py` shows, all of which exist."""
    source = (ROOT / "docs" / "extensions" / "gallery.py").read_text(encoding="utf-8")
    (table,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXAMPLES"
    )
    names = list(ast.literal_eval(table))
    assert all((ROOT / "examples" / f"{name}.py").is_file() for name in names)
    return names


def test_the_front_page_is_short() -> None:
    text = prose(ROOT / "docs" / "index.md")
    first = text[text.index("An optimizer computes") : text.index("New here?")]
    assert len(re.sub(r"\]\([^)]*\)", "]", first).split()) <= 200
