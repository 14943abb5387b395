"""The mutants of a source file, as replacements of text."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.Pow: "*",
}
COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">"),
    ast.LtE: ("<", ">="),
    ast.Gt: (">=", "<"),
    ast.GtE: (">", "<="),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
RENAMED = {
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "argmax": "argmin",
    "mean": "sum",
    "sum": "mean",
    "ones": "zeros",
    "zeros": "ones",
    "ones_like": "zeros_like",
    "zeros_like": "ones_like",
}
UNWRAPPED = {"stop_gradient", "conj", "sqrt", "square", "clip", "upcast", "abs", "transpose"}
"""Functions that a mutant replaces by their first argument."""

BRANCHES = {"where", "tree_where", "cond"}
"""Functions of a condition and two branches, which a mutant swaps."""

SYMMETRIC = {
    *("per_sample_dot", "tree_vdot", "vdot", "add", "multiply", "minimum", "maximum"),
    *("zip", "isinstance", "getattr", "hasattr"),
}
"""Functions whose first two arguments are not swapped: it changes nothing, or too much."""

UNTOUCHED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
"""Statements and expressions without mathematics."""

UNTOUCHED_KEYWORDS = ("strict", "frozen")
"""Arguments that only find mistakes."""

SKIPPED_FUNCTIONS = (
    "check_",
    "_check_",
    "refuse_",
    "describe",
    "_describe",
    "__repr__",
    "__post_init__",
    "explain",
)


class Mutant(NamedTuple):
    """One change of a source text.

    Attributes:
        kind: what is changed.
        line: the line of the change, from 1.
        start: the first character that is replaced.
        stop: the character after the last that is replaced.
        new: the text that replaces it.
    """

    kind: str
    line: int
    start: int
    stop: int
    new: str

    def apply(self, source: str) -> str:
        """The mutated source."""
        return source[: self.start] + self.new + source[self.stop :]


def find_mutants(source: str) -> list[Mutant]:
    """All mutants of a source text, in the order of its syntax tree."""
    positions = _Positions(source)
    found = []
    for node in _mathematics(ast.parse(source)):
        for kind, expression in _changes(node, positions):
            start, stop = positions.span(node)
            if expression != source[start:stop]:
                found.append(Mutant(kind, node.lineno, start, stop, expression))
    return found


class _Positions:
    """Character offsets of nodes; lines and columns of `ast` count bytes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def _offset(self, line: int, column: int) -> int:
        text = self.lines[line - 1].encode()[:column].decode()
        return self.starts[line - 1] + len(text)

    def span(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def text(self, node: ast.expr) -> str:
        start, stop = self.span(node)
        return self.source[start:stop]


def _mathematics(node: ast.AST) -> Iterator[ast.expr]:
    """All expressions but messages, annotations, decorators and documentation."""
    if isinstance(node, UNTOUCHED):
        return
    if isinstance(node, ast.FunctionDef) and node.name.startswith(SKIPPED_FUNCTIONS):
        return
    if isinstance(node, ast.expr):
        yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "type_params", "slice"):
            continue
        if isinstance(node, ast.keyword) and node.arg in UNTOUCHED_KEYWORDS:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_text(child):
                yield from _mathematics(child)


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _changes(node: ast.expr, positions: _Positions) -> Iterator[tuple[str, str]]:
    """Kinds and texts that may stand for an expression."""
    text = positions.text
    if isinstance(node, ast.BinOp):
        left, right = text(node.left), text(node.right)
        if type(node.op) in ARITHMETIC:
            yield "arithmetic", f"({left}) {ARITHMETIC[type(node.op)]} ({right})"
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
            yield "dropped term", f"({left})"
            yield "dropped term", f"-({right})" if isinstance(node.op, ast.Sub) else f"({right})"
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.USub | ast.Not):
            yield "sign", f"({text(node.operand)})"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in COMPARISONS[type(node.ops[0])]:
            yield "comparison", f"({text(node.left)}) {op} ({text(node.comparators[0])})"
    elif isinstance(node, ast.BoolOp):
        word = " or " if isinstance(node.op, ast.And) else " and "
        yield "logic", "(" + word.join(f"({text(value)})" for value in node.values) + ")"
    elif isinstance(node, ast.IfExp):
        yield "branches", f"({text(node.orelse)}) if ({text(node.test)}) else ({text(node.body)})"
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield "transpose", f"({text(node.value)})"
    elif isinstance(node, ast.Call):
        yield from _calls(node, positions)


def _constants(node: ast.Constant) -> Iterator[tuple[str, str]]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", str(not value)
    elif isinstance(value, int):
        yield "constant", str(value + 1)
    elif isinstance(value, float):
        yield "constant", repr(2 * value if value else 1.0)


def _calls(node: ast.Call, positions: _Positions) -> Iterator[tuple[str, str]]:
    text = positions.text
    function = node.func
    if isinstance(function, ast.Attribute):
        # The parentheses of `(a < b).sum()` belong to no node.
        is_plain = isinstance(function.value, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
        owner = text(function.value)
        name, before = function.attr, f"{owner}." if is_plain else f"({owner})."
    elif isinstance(function, ast.Name):
        name, before = function.id, ""
    else:
        return
    arguments = [text(argument) for argument in node.args]
    keywords = [f"{word.arg}={text(word.value)}" for word in node.keywords if word.arg]
    if len(keywords) != len(node.keywords):
        return
    # Python's own `sum` has no kin.
    if name in RENAMED and (before or name != "sum"):
        yield "renamed", f"{before}{RENAMED[name]}({', '.join(arguments + keywords)})"
    if name in UNWRAPPED and arguments and not isinstance(node.args[0], ast.Starred):
        yield "dropped function", f"({arguments[0]})"
    if name in BRANCHES and len(arguments) >= 3:
        condition, first, second, *rest = arguments
        swapped = [condition, second, first, *rest, *keywords]
        yield "branches", f"{before}{name}({', '.join(swapped)})"
    elif name not in SYMMETRIC and len(arguments) == 2 and not name[0].isupper():
        yield (
            "swapped arguments",
            f"{before}{name}({', '.join([*reversed(arguments), *keywords])})",
        )
