"""Every public name is documented, on the API page and in docstrings."""

import dataclasses
import functools
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gtddp_jax as gt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
PUBLIC: dict[str, ModuleType] = {
    "gtddp_jax": gt,
    "gtddp_jax.curvature": gt.curvature,
    "gtddp_jax.terminal": gt.terminal,
    "gtddp_jax.weighting": gt.weighting,
    "gtddp_jax.damping": gt.damping,
    "gtddp_jax.step_control": gt.step_control,
    "gtddp_jax.metrics": gt.metrics,
    "gtddp_jax.reference": gt.reference,
    "gtddp_jax.linen": gt.linen,
    "gtddp_jax.nnx": gt.nnx,
}
ENTRIES: dict[str, Any] = {
    f"{path}.{name}": getattr(module, name)
    for path, module in PUBLIC.items()
    for name in module.__all__
    if f"{path}.{name}" not in PUBLIC
}
CLASSES = {name: entry for name, entry in ENTRIES.items() if inspect.isclass(entry)}


def page_members() -> dict[str, set[str]]:
    """The directives of the page, each with its `:members:`."""
    text = PAGE.read_text(encoding="utf-8")
    directives = re.findall(
        r"^\.\. (?:auto\w+|data):: ([\w.]+)(?:\(\))?\n((?:   .*\n)*)", text, flags=re.M
    )
    assert len(directives) == len(dict(directives))
    members = {name: re.search(r":members: (.*)", options) for name, options in directives}
    return {name: set(re.split(r",\s*", m[1])) if m else set() for name, m in members.items()}


def public_methods(cls: type) -> dict[str, Any]:
    """The public methods and properties of a class by name, except those of private bases."""
    attributes: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is cls or base in CLASSES.values():
            attributes |= {k: v for k, v in vars(base).items() if not k.startswith("_")}
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (property, functools.cached_property))
        # `replace` of Flax's dataclasses is documented there.
        or (inspect.isfunction(value) and not value.__module__.startswith("flax."))
    }


def public_attributes(cls: type) -> set[str]:
    """Fields and annotated attributes."""
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    annotated = {
        name
        for base in cls.__mro__
        if base is cls or base in CLASSES.values()
        for name in inspect.get_annotations(base)
    }
    return {
        name for name in fields | annotated | set(getattr(cls, "_fields", ())) if name[0] != "_"
    }


def is_override(method: Any) -> bool:
    """Whether a method is marked with `override`: the base class documents it."""
    function = getattr(method, "fget", None) or getattr(method, "func", method)
    return getattr(function, "__override__", False)


def test_the_page_has_every_public_name_and_no_other() -> None:
    assert set(page_members()) == set(ENTRIES)


def test_every_public_name_has_a_docstring() -> None:
    for path, module in PUBLIC.items():
        assert module.__doc__, path
    for name, entry in ENTRIES.items():
        assert isinstance(entry, dict) or entry.__doc__, name


@pytest.mark.parametrize("name", CLASSES)
def test_methods_are_on_the_page_and_have_docstrings(name: str) -> None:
    cls = CLASSES[name]
    methods = {k for k, v in public_methods(cls).items() if not is_override(v)}
    assert not [k for k in methods if not public_methods(cls)[k].__doc__]
    shown = page_members()[name] | {
        member
        for base in cls.__mro__[1:]
        for path, other in CLASSES.items()
        if other is base
        for member in page_members()[path]
    }
    assert not methods - shown
    assert page_members()[name] <= {*public_methods(cls), "__call__"}


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_are_described(name: str) -> None:
    cls = CLASSES[name]
    text = "\n".join(base.__doc__ or "" for base in cls.__mro__ if base in CLASSES.values())
    missing = {a for a in public_attributes(cls) if not re.search(rf"^\s+{a}:", text, flags=re.M)}
    assert not missing - set(public_methods(cls))


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if inspect.isfunction(e)])
def test_arguments_are_described(name: str) -> None:
    """In the docstring, or in that of a public name that it mentions, such as `gtddp`."""
    function = ENTRIES[name]
    others = [
        ENTRIES.get(f"gtddp_jax.{other}") for other in re.findall(r"`([\w.]+)`", function.__doc__)
    ]
    text = "\n".join(entry.__doc__ for entry in [function, *others] if entry is not None)
    described = {
        name for code in re.findall(r"`[^`]+`", text) for name in re.findall(r"(\w+)\(", code)
    }
    for names in re.findall(r"^\s+([\w*, ]+):", text, flags=re.M):
        described |= set(re.split(r",\s*", names.replace("*", "")))
    arguments = inspect.signature(function).parameters.values()
    assert {a.name for a in arguments if a.kind is not a.VAR_KEYWORD} <= described
