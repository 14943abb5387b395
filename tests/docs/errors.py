"""Every error message of the library and its command, and the tests that provoke each.

    python -m tests.docs.errors          # lists the messages that no test provokes
    python -m tests.docs.errors --write  # also writes docs/errors.md

Messages are collected from the `raise` statements of the code. A test is taken to provoke a message
if one of its strings, such as the argument of `pytest.raises(match=...)`, contains words that occur
in this message and in few others.
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
PACKAGES = ("gtddp_jax", "gtddp_lab")
GAP = "…"
"""Stands for the parts of a message that depend on its input."""

MIN_LENGTH = 9
"""Number of characters from which on the words of a test identify a message."""

PRINTS_ERROR = "_print_error"
"""The function by which the command prints a message before it exits."""

SILENT = ("SystemExit", "AssertionError", "NotImplementedError", "KeyboardInterrupt")
"""Exceptions that carry no message for a user."""

HEAD = """# Error messages

Every message that the library and its command raise themselves, and the test that provokes it. `…`
stands for the parts of a message that depend on the input. The most common messages are on
[a page with what to do instead](limits.md). A test compares this page with the code;
`python -m tests.docs.errors --write` regenerates it.

Errors of JAX, Flax and optax are passed through unchanged: shapes that do not fit a layer
(`flax.errors.ScopeParamShapeError`), targets that cannot be broadcast (`TypeError`), labels that
are not integers.

## Mistakes without a message

To the library a loss is a function, so it cannot check labels. Under optax's integer cross entropy
a label beyond the last class makes the loss NaN, so the step is
[skipped and counted](faq.md#a-step-was-skipped). A negative label counts from the end, as in
NumPy, and trains on the wrong class: mask such samples in the loss. `gtddp train` checks all labels
of a data set before it starts.

There are {all} messages; {missing} of them are not provoked by any test.
"""


class Message(NamedTuple):
    """One `raise` statement.

    Attributes:
        module: path of the file.
        line: line in the file.
        kind: name of the exception.
        text: the message, with gaps.
    """

    module: str
    line: int
    kind: str
    text: str


def expression_text(node: ast.AST | None, names: dict[str, ast.expr]) -> str:
    """The text of an expression, with a gap for everything that is not constant."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(expression_text(part, names) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return expression_text(node.left, names) + expression_text(node.right, names)
    if isinstance(node, ast.IfExp):
        return expression_text(node.body, names) or expression_text(node.orelse, names)
    if isinstance(node, ast.Name) and node.id in names:
        others = {name: value for name, value in names.items() if name != node.id}
        return expression_text(names[node.id], others)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "format"
    ):
        return re.sub(r"\{\w*\}", GAP, expression_text(node.func.value, names))
    return GAP


def raised_messages(path: Path) -> Iterator[Message]:
    """The messages of one file: what it raises, and what it prints before it exits."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            call = node.exc
            kind = getattr(call.func, "id", getattr(call.func, "attr", ""))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == PRINTS_ERROR:
            call, kind = node, "exit"
        else:
            continue
        text = expression_text(call.args[0], names) if call.args else ""
        text = re.sub(f"(?:{GAP})+", GAP, " ".join(text.split()))
        # Hardly any text is left where the message of another exception is passed on.
        if kind not in SILENT and len(text.replace(GAP, "").strip(" :.")) >= MIN_LENGTH - 1:
            yield Message(path.relative_to(ROOT).as_posix(), node.lineno, kind, text)


@functools.cache
def all_messages() -> tuple[Message, ...]:
    """All messages, by module."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple(
        message
        for path in files
        for message in sorted(raised_messages(path), key=lambda message: message.line)
    )


def plain_pieces(text: str) -> set[str]:
    """The plain parts of a test's string, which may be a regular expression."""
    plain = re.sub(r"\\(.)", r"\1", text)
    parts = re.split(r"\.[*+?]|\[\^?\w[^\]]*\]|[|^$\n]", plain)
    pieces = {piece.strip() for piece in [*parts, *text.splitlines()]}
    return {piece for piece in pieces if len(piece) >= MIN_LENGTH}


@functools.cache
def expected_words() -> tuple[tuple[str, str], ...]:
    """The words that tests expect, longest first: `(words, test)`."""
    expected = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path.name == "test_errors_page.py":
            continue
        file = path.relative_to(ROOT).as_posix()
        for part in ast.parse(path.read_text(encoding="utf-8")).body:
            name = getattr(part, "name", "")
            test = f"{file}::{name}" if name.startswith("test") else file
            for node in ast.walk(part):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    expected |= {(piece, test) for piece in plain_pieces(node.value)}
    return tuple(sorted(expected, key=lambda each: (-len(each[0]), each)))


def words_match(words: str, text: str) -> bool:
    """Whether the words occur in the message, or contain one of its parts between gaps."""
    if words in text:
        return True
    parts = [part.strip(" .:;,()'") for part in text.split(GAP)]
    return any(len(part) >= MIN_LENGTH and part in words for part in parts)


def find_message(module: str, beginning: str) -> Message:
    """The shortest message that begins so, in the modules whose path ends with `module`."""
    found = [
        message
        for message in all_messages()
        if message.module.endswith(module) and message.text.startswith(beginning)
    ]
    assert found, (module, beginning)
    return min(found, key=lambda message: (len(message.text), message.line))


@functools.cache
def provoking_tests() -> dict[Message, str]:
    """For each message the test that expects it with the most words."""
    this_test = "tests/docs/test_errors_page.py::test_messages"
    tests = {find_message(*place): this_test for place in PROVOKED}
    tests |= {find_message(*place): test for place, test in ELSEWHERE.items()}
    for words, test in expected_words():
        matching = [message for message in all_messages() if words_match(words, message.text)]
        if len({message.text for message in matching}) <= 2:
            for message in matching:
                tests.setdefault(message, test)
    return tests


def errors_page() -> str:
    """The text of docs/errors.md."""
    tests = provoking_tests()
    missing = [message for message in all_messages() if message not in tests]
    lines = [HEAD.format(missing=len(missing), all=len(all_messages()))]
    for module in dict.fromkeys(message.module for message in all_messages()):
        lines += [f"## {module}", "", "| message | error | provoked in |", "|---|---|---|"]
        for message in all_messages():
            if message.module == module:
                text = message.text.replace("|", "\\|")
                test = f"`{tests[message]}`" if message in tests else "not provoked"
                quoted = f"`` {text} ``" if "`" in text else f"`{text}`"
                lines.append(f"| {quoted} | {message.kind} | {test} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Write the page if asked to, and list the messages that no test provokes."""
    parser = argparse.ArgumentParser("python -m tests.docs.errors")
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(errors_page(), encoding="utf-8")
    for message in all_messages():
        if message not in provoking_tests():
            print(f"{message.module}:{message.line}: {message.text}")


if __name__ == "__main__":
    main()
