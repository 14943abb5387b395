"""Every error message of the library and its command, and the tests that provoke each.

    python -m tests.docs.errors          # says what no test provokes
    python -m tests.docs.errors --write  # writes docs/errors.md

Messages come from the `raise` statements of the code. A test provokes one if a string in it has
words that are in this message and in few others: what `pytest.raises(match=...)` expects.
"""

import argparse
import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.docs.provoked import ELSEWHERE, PROVOKED

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("gtddp_jax", "gtddp_cli")
GAP = "…"
"""Stands for what a message takes from its input."""

LEAST = 9
"""Letters that words of a test must have, to tell one message from others."""

SILENT = ("SystemExit", "AssertionError", "NotImplementedError", "KeyboardInterrupt")
"""What is raised for other reasons than to tell somebody something."""

HEAD = """# Error messages

Every message that the library and its command raise themselves, and the test that gives the input
for it. `…` stands for what a message takes from that input. The commonest are on
[a page with what to do instead](limits.md). A test compares this page with the code;
`python -m tests.docs.errors --write` writes it anew.

Errors of JAX, Flax and optax pass through as they are: shapes that do not fit a layer
(`flax.errors.ScopeParamShapeError`), targets that cannot be broadcast (`TypeError`), labels that
are no integers.

## What no message tells

A loss is a function to the library: it does not know what a label means. Under optax's integer
cross entropy a label beyond the last class makes the loss NaN, so the step is
[skipped and counted](faq.md#a-step-was-skipped). A negative label counts from the end, as in
NumPy, and trains on the wrong class: mask such samples in the loss. `gtddp train` checks all labels
of a data set before it begins.

There are {all} messages; {missing} of them are provoked by no test.
"""


class Message(NamedTuple):
    """One `raise` statement.

    Attributes:
        module: where it is, as a path.
        line: where in it.
        kind: the exception.
        text: the message, with gaps.
    """

    module: str
    line: int
    kind: str
    text: str


def text_of(node: ast.AST | None, names: dict[str, ast.expr]) -> str:
    """The text of an expression, with a gap for everything that is known only when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, names) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left, names) + text_of(node.right, names)
    if isinstance(node, ast.IfExp):
        return text_of(node.body, names) or text_of(node.orelse, names)
    if isinstance(node, ast.Name) and node.id in names:
        return text_of(names[node.id], {k: v for k, v in names.items() if k != node.id})
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "format"
    ):
        return re.sub(r"\{\w*\}", GAP, text_of(node.func.value, names))
    return GAP


def raised(path: Path) -> Iterator[Message]:
    """The messages of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else node
        told = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_told"
        if not isinstance(call, ast.Call) or not isinstance(node, ast.Raise | ast.Call):
            continue
        if isinstance(node, ast.Call) and not told:
            continue
        kind = getattr(call.func, "id", getattr(call.func, "attr", ""))
        text = text_of(call.args[0], names) if call.args else ""
        text = re.sub(f"(?:{GAP})+", GAP, " ".join(text.split()))
        if kind in SILENT or len(text.replace(GAP, "").strip(" :.")) < LEAST - 1:
            continue  # passes on what somebody else said
        yield Message(
            path.relative_to(ROOT).as_posix(), node.lineno, "exit" if told else kind, text
        )


@functools.cache
def messages() -> tuple[Message, ...]:
    """All messages, by module."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple(
        message
        for path in files
        for message in sorted(raised(path), key=lambda message: message.line)
    )


def pieces(text: str) -> set[str]:
    """The runs of plain words in what a test expects, which may be a regular expression."""
    plain = re.sub(r"\\(.)", r"\1", text)
    cut = re.split(r"\.[*+?]|\[\^?\w[^\]]*\]|[|^$\n]", plain)
    found = {piece.strip() for piece in [*cut, *text.splitlines()]}
    return {piece for piece in found if len(piece) >= LEAST}


@functools.cache
def expected() -> tuple[tuple[str, str], ...]:
    """What tests expect, longest first: `(words, test)`."""
    found = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path.name == "test_errors_page.py":
            continue
        place = path.relative_to(ROOT).as_posix()
        for part in ast.parse(path.read_text(encoding="utf-8")).body:
            name = getattr(part, "name", "")
            for node in ast.walk(part):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    where = f"{place}::{name}" if name.startswith("test") else place
                    found |= {(piece, where) for piece in pieces(node.value)}
    return tuple(sorted(found, key=lambda each: (-len(each[0]), each)))


def common(words: str, text: str) -> bool:
    """Whether a test's words tell a message: they are in it, or reach into its gaps."""
    if words in text:
        return True
    parts = [part.strip(" .:;,()'") for part in text.split(GAP)]
    return any(len(part) >= LEAST and part in words for part in parts)


def told(module: str, beginning: str) -> Message:
    """The message with this beginning in the module whose path ends so, the shortest if several."""
    found = [
        message
        for message in messages()
        if message.module.endswith(module) and message.text.startswith(beginning)
    ]
    return min(found, key=lambda message: (len(message.text), message.line))


@functools.cache
def provoked() -> dict[Message, str]:
    """By message: the test that expects it with the most words."""
    own = "tests/docs/test_errors_page.py::test_messages"
    found = {told(*place): own for place in PROVOKED}
    found |= {told(*place): test for place, test in ELSEWHERE.items()}
    for words, where in expected():
        meant = [message for message in messages() if common(words, message.text)]
        if len({message.text for message in meant}) <= 2:
            for message in meant:
                found.setdefault(message, where)
    return found


def page() -> str:
    """The page."""
    missing = [message for message in messages() if message not in provoked()]
    lines = [HEAD.format(missing=len(missing), all=len(messages()))]
    for module in dict.fromkeys(message.module for message in messages()):
        lines += [f"## {module}", "", "| message | error | provoked in |", "|---|---|---|"]
        for message in messages():
            if message.module == module:
                text = message.text.replace("|", "\\|")
                test = provoked().get(message)
                where = f"`{test}`" if test else "not provoked"
                quoted = f"`` {text} ``" if "`" in text else f"`{text}`"
                lines.append(f"| {quoted} | {message.kind} | {where} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Writes the page, or says what no test provokes."""
    parser = argparse.ArgumentParser("python -m tests.docs.errors")
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    for message in messages():
        if message not in provoked():
            print(f"{message.module}:{message.line}: {message.text}")


if __name__ == "__main__":
    main()
