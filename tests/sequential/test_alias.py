"""The aliases: one list of keyword arguments for signatures, type checkers and documentation."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential import alias
from tests.sequential import zoo

LOSS: Any = zoo.LOSSES["softmax"]
ALIASES: dict[str, tuple[Callable[..., Any], type]] = {
    "sgd": (gt.sgd, gt.curvature.SGD),
    "rmsprop": (gt.rmsprop, gt.curvature.RMSProp),
    "adam": (gt.adam, gt.curvature.Adam),
    "adamw": (gt.adamw, gt.curvature.Adam),
    "kfac": (gt.kfac, gt.curvature.KFAC),
    "ekfac": (gt.ekfac, gt.curvature.EKFAC),
    "soap": (gt.soap, gt.curvature.SOAP),
}
KRONECKER = {"kfac": alias.KFACGameOptions, "ekfac": alias.EKFACGameOptions}


def keyword_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("name", ALIASES)
def test_signatures_have_the_keyword_arguments_of_gtddp(name: str) -> None:
    game = keyword_parameters(gt.gtddp)
    own = keyword_parameters(ALIASES[name][0])
    assert {key: own[key] for key in game} == game


def test_types_of_the_keyword_arguments_are_those_of_gtddp() -> None:
    declared = get_type_hints(alias.GameOptions)
    game = {key: parameter.annotation for key, parameter in keyword_parameters(gt.gtddp).items()}
    assert declared == game


@pytest.mark.parametrize("name", KRONECKER)
def test_options_are_the_fields_of_the_curvature(name: str) -> None:
    function, curvature = ALIASES[name]
    fields = {field.name: field.type for field in dataclasses.fields(curvature)}
    positional = inspect.signature(function).parameters
    declared = get_type_hints(KRONECKER[name])
    assert declared == get_type_hints(alias.GameOptions) | {
        key: hint for key, hint in fields.items() if key not in positional
    }


@pytest.mark.parametrize("name", ALIASES)
def test_every_argument_is_documented(name: str) -> None:
    function, curvature = ALIASES[name]
    parameters = inspect.signature(function).parameters
    expected = set(parameters) - {"options"}
    if "options" in parameters:
        expected |= {field.name for field in dataclasses.fields(curvature)}
    documentation = inspect.getdoc(function) or ""
    missing = {key for key in expected if f"\n    {key}: " not in documentation}
    assert not missing
    assert documentation.index("Args:") < documentation.index("Example:")


def test_unknown_arguments_are_refused() -> None:
    """By Python, and by pyright, which reports a suppression that it does not need."""
    net: Any = zoo.problem("tiny").net
    gt.adam(net, LOSS, 1e-3, equilibrium="open_loop")
    with pytest.raises(TypeError, match="feedbak"):
        gt.adam(net, LOSS, 1e-3, feedbak=False)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="refresh"):
        gt.kfac(net, LOSS, 1e-3, refresh=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="rollout"):
        gt.adam(net, LOSS, 1e-3, rollout=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_defaults_are_those_of_optax(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (gt, optax))
    shared = [key for key in ours if key in theirs]
    assert len(shared) > 1
    assert {key: ours[key].default for key in shared} == {
        key: theirs[key].default for key in shared
    }
