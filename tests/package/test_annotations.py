"""Every public name tells the types of what it takes and gives, arrays with their shapes."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import jax
import optax
import pytest

import gtddp_jax as gt
from tests.docs.test_api import PUBLIC

ANYTHING = {
    "from_flax.model": "a linen or an nnx module; nnx is imported only when one comes",
    "from_flax.apply_kwargs": "values are the model's own",
    "from_flax.eval_kwargs": "values are the model's own",
    "Losses.__init__.per_sample": "its argument has the type of the outputs",
    "explain_losses.args": "the arguments of the function of losses",
    "explain_losses.kwargs": "the arguments of the function of losses",
    "player.init": "the user's own trees",
    "player.apply": "the user's own trees",
    "Cooperative.__init__.players": "modules of several libraries",
    "implicit_weights.options": "the further arguments of implicit, which checks them",
}
"""Where `Any` stands in a public signature, and why."""

FROM_FLAX = ("TrainState.__init__", "TrainState.replace")
"""Made by Flax, of its own fields."""


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions, constructors and methods by name."""
    for module in PUBLIC.values():
        for name in module.__all__:
            entry = getattr(module, name)
            if inspect.isfunction(entry):
                yield name, entry
            elif inspect.isclass(entry) and not issubclass(entry, Exception):
                for key, member in vars(entry).items():
                    public = not key.startswith("_") or key == "__init__"
                    member = member.fget if isinstance(member, property) else member
                    made_here = f"{name}.{key}" not in FROM_FLAX
                    if public and made_here and inspect.isfunction(member):
                        yield f"{name}.{key}", member


FUNCTIONS = dict(functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_annotated(name: str) -> None:
    signature = inspect.signature(FUNCTIONS[name])
    assert signature.return_annotation is not signature.empty
    for parameter in list(signature.parameters.values()):
        if parameter.name == "self":
            continue
        assert parameter.annotation is not parameter.empty, parameter.name
        _check(f"{name}.{parameter.name}", parameter.annotation)
    _check(f"{name}.return", signature.return_annotation)


def _check(where: str, annotation: Any) -> None:
    """Neither `Any` nor an array without its shape, at any depth."""
    parts = list(_parts(annotation))
    assert where in ANYTHING or Any not in parts, f"{where}: {annotation}"
    assert jax.Array not in parts, f"{where}: an array without its shape"


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    if annotation in (optax.Schedule, type[Any]):  # others' words; the latter is in DTypeLike
        return
    arguments = annotation if isinstance(annotation, list) else get_args(annotation)
    for part in arguments:
        yield from _parts(part)


def tuples() -> Iterator[tuple[str, type]]:
    for module in PUBLIC.values():
        for name in module.__all__:
            entry = getattr(module, name)
            if inspect.isclass(entry) and hasattr(entry, "_fields"):
                yield name, entry


TUPLES = dict(tuples())


@pytest.mark.parametrize("name", TUPLES)
def test_fields_are_annotated(name: str) -> None:
    hints = get_type_hints(TUPLES[name])
    for field in TUPLES[name]._fields:
        _check(f"{name}.{field}", hints[field])


def test_exceptions_to_the_rule_are_real() -> None:
    names = {where.rpartition(".")[0] for where in ANYTHING}
    assert names <= set(FUNCTIONS)
    for where in ANYTHING:
        name, _, parameter = where.rpartition(".")
        annotation = inspect.signature(FUNCTIONS[name]).parameters[parameter].annotation
        assert Any in list(_parts(annotation)), where


def test_shapes_are_written_where_numbers_come_one_a_sample() -> None:
    annotation = (
        inspect.signature(gt.terminal.TerminalExpansion.derivative).parameters["shift"].annotation
    )
    assert annotation.dims[0].name == "B"
