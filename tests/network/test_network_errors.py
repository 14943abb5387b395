"""Errors of network descriptions name the block and say what to do."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.sequential import zoo


def repeated_layer() -> list[Any]:
    layer = nn.Dense(4)
    return [layer, jnp.tanh, layer]


class CustomBatchNorm(nn.BatchNorm):
    """A subclass, which may do anything."""


HALF: Any = 0.5
MIXED: Any = [nn.Dense(4), jnp.tanh]
WITH_A_CLASS: Any = [nn.Dense(4), nn.LayerNorm]
WITH_A_NUMBER: Any = [nn.Dense(4), 3]
LONG = [nn.Dense(4), nn.Dense(4), nn.Dense(4)]

BUILD: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "empty body": (lambda: gt.Residual([]), ["body is empty", "at least one layer"]),
    "at is no int": (lambda: gt.Residual([nn.Dense(4)], at=HALF), ["at=0.5", "must be an int"]),
    "at is a bool": (lambda: gt.Residual([nn.Dense(4)], at=True), ["at=True", "must be an int"]),
    "at too large": (
        lambda: gt.Network([nn.Dense(4), gt.Residual([nn.Dense(4)], at=1)]),
        ["Network[1] Residual", "at=1 is out of range", "0 to 0"],
    ),
    "at negative": (
        lambda: gt.Network([gt.Residual([nn.Dense(4), nn.Dense(4)], at=-1)]),
        ["Network[0] Residual", "at=-1 is out of range", "0 to 1"],
    ),
    "shortcut too long": (
        lambda: gt.Network([gt.Residual([nn.Dense(4), nn.Dense(4)], LONG, at=0)]),
        ["3 parametric layers", "needs 3 stages", "lengthen the body"],
    ),
    "shortcut too late": (
        lambda: gt.Network([gt.Residual([nn.Dense(4), nn.Dense(4)], LONG[:2], at=1)]),
        ["placed at=1", "Place it earlier"],
    ),
    "body without players": (
        lambda: gt.Network([nn.Dense(4), gt.Residual([jnp.tanh])]),
        ["Network[1] Residual", "a block needs a player"],
    ),
    "one branch": (
        lambda: gt.Parallel([nn.Dense(4)]),
        ["Parallel(branches=", "at least two branches"],
    ),
    "branches that are no list": (
        lambda: gt.Parallel(HALF),
        ["branches=0.5", "at least two branches"],
    ),
    "unknown merge": (
        lambda: gt.Parallel([nn.Dense(4), nn.Dense(4)], merge="mean"),
        ["merge='mean'", "merge must be one of"],
    ),
    "branches without players": (
        lambda: gt.Network([nn.Dense(4), gt.Parallel([jnp.tanh, []])]),
        ["Network[1] Parallel", "no branch has parameters"],
    ),
    "nothing to train": (lambda: gt.Network([jnp.tanh]), ["nothing to train"]),
    "no layers": (lambda: gt.Network([]), ["nothing to train"]),
    "same object twice": (
        lambda: gt.Network(repeated_layer()),
        ["Network[2]", "same Dense object", "Network[0]", "Make a module for each place"],
    ),
    "same name twice": (
        lambda: gt.Network([nn.Dense(4, name="a"), gt.Residual(nn.Dense(4, name="a"))]),
        ["Network[1] Residual body[0]", "'a' is taken by Network[0]"],
    ),
    "a name that Flax would give": (
        lambda: gt.Network([nn.Dense(4, name="Dense_0"), nn.Dense(4)]),
        ["Network[1]", "'Dense_0' is taken by Network[0]"],
    ),
    "batch norm on another axis": (
        lambda: gt.Network([nn.Dense(4), nn.BatchNorm(axis=1)]),
        ["Network[1]", "nn.BatchNorm(axis=1)", "the last axis"],
    ),
    "subclass of batch norm": (
        lambda: gt.Network([nn.Dense(4), CustomBatchNorm()]),
        ["Network[1]", "CustomBatchNorm is a subclass", "use nn.BatchNorm itself"],
    ),
    "batch norm cooperates": (
        lambda: gt.Network([gt.Cooperative([nn.Dense(4), nn.BatchNorm()])]),
        ["Network[0] Cooperative[1]", "nn.BatchNorm cannot be a member", "before or after"],
    ),
    "a class": (
        lambda: gt.Network(WITH_A_CLASS),
        ["Network[1]", "LayerNorm is a class", "LayerNorm(...)"],
    ),
    "not callable": (
        lambda: gt.Network(WITH_A_NUMBER),
        ["Network[1]", "3 is neither", "gt.Residual"],
    ),
    "one cooperator": (lambda: gt.Cooperative([nn.Dense(4)]), ["1 player(s)", "two or more"]),
    "function cooperates": (
        lambda: gt.Cooperative(MIXED),
        ["is not a module", "before or after the block"],
    ),
}

SHAPES: dict[str, tuple[Callable[[], list[Any]], list[str]]] = {
    "merge": (
        lambda: [gt.Residual([nn.Dense(5)]), nn.Dense(2)],
        ["merge of Network[0] Residual", "('B', 5) and ('B', 4)", "shortcut=nn.Conv"],
    ),
    "merge with a shortcut": (
        lambda: [gt.Residual([nn.Dense(5)], nn.Dense(6)), nn.Dense(2)],
        ["merge of Network[0] Residual", "('B', 5) and ('B', 6)"],
    ),
    "cooperation": (
        lambda: [gt.Cooperative([nn.Dense(5), nn.Dense(4)])],
        ["sum of Network[0] Cooperative", "('B', 5) and ('B', 4)", "outputs of one shape"],
    ),
    "mean over the batch": (
        lambda: [nn.Dense(4), lambda x: x - x.mean(0, keepdims=True)],
        ["function '<lambda>'", "changes with the other samples", "never over axis 0"],
    ),
    "mean over the batch, normalized": (
        lambda: [nn.Dense(4), nn.BatchNorm(), lambda x: x - x.mean(0, keepdims=True)],
        ["function '<lambda>'", "changes with the other samples", "never over axis 0"],
    ),
    "sum over all axes": (
        lambda: [nn.Dense(4), jnp.sum, nn.Dense(2)],
        ["function 'sum'", "leading axis is the sample axis"],
    ),
    "flatten all": (
        lambda: [nn.Dense(4), lambda x: x.reshape(1, -1), nn.Dense(2)],
        ["function '<lambda>'", "leading axis is the sample axis"],
    ),
    "batch size in the features": (
        lambda: [nn.Dense(4), lambda x: jnp.ones((x.shape[0], 4 * x.shape[0])), nn.Dense(2)],
        ["depends on the batch size", "samples must be separate"],
    ),
    "branches of two shapes": (
        lambda: [gt.Parallel([nn.Dense(4), nn.Dense(3)])],
        ["sum of Network[0] Parallel", "('B', 4) and ('B', 3)", "merged by concatenation"],
    ),
    "branches of two ranks": (
        lambda: [gt.Parallel([nn.Dense(4), [nn.Dense(4), lambda x: x[:, None]]], "concatenate")],
        ["concatenate of Network[0] Parallel", "('B', 4) and ('B', 1, 4)", "last axis alone"],
    ),
    "no parameters": (
        lambda: [nn.Dense(4), nn.LayerNorm(use_bias=False, use_scale=False)],
        ["player 'LayerNorm_0'", "has no parameters", "module.apply({}, x)"],
    ),
}


class Counting(nn.Module):
    """A module with another variable collection beside its parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        self.variable("memory", "calls", jnp.zeros, ())
        return nn.Dense(4)(x)


def check_message(error: pytest.ExceptionInfo, fragments: list[str]) -> None:
    message = str(error.value)
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize("name", BUILD)
def test_description_is_refused(name: str) -> None:
    build, fragments = BUILD[name]
    with pytest.raises(gt.NetworkError) as error:
        build()
    check_message(error, fragments)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_refused(name: str) -> None:
    layers, fragments = SHAPES[name]
    net = gt.Network(layers())
    with pytest.raises(gt.NetworkError) as error:
        net.init(jax.random.key(0), jnp.ones((2, 4)))
    check_message(error, fragments)


def test_further_collections_are_refused() -> None:
    net = gt.Network([Counting()])
    with pytest.raises(gt.NetworkError) as error:
        net.init(jax.random.key(0), jnp.ones((2, 4)))
    check_message(
        error, ["player 'Counting_0'", "['memory']", "'params' only", "nn.BatchNorm is a layer"]
    )


def test_samples_without_an_axis_are_refused() -> None:
    with pytest.raises(gt.NetworkError, match="lack a sample axis"):
        gt.Network([nn.Dense(4)]).init(jax.random.key(0), jnp.ones(()))


@pytest.mark.parametrize("use", ["apply", "explain", "init of the optimizer", "update"])
def test_params_are_claimed_exactly_once(use: str) -> None:
    p = zoo.problem("no_bias")
    tx: Any = gt.sgd(p.net, zoo.LOSSES["squared"], 0.1)
    state = tx.init(p.params)
    calls = {
        "apply": lambda params: p.net.apply(params, p.x),
        "explain": lambda params: gt.explain(p.net, params, p.x),
        "init of the optimizer": tx.init,
        "update": lambda params: tx.update(None, state, params, batch=(p.x, p.y)),
    }
    extra = p.params | {"Other": p.params["Dense_0"]}
    with pytest.raises(gt.NetworkError, match=r"unexpected parameters: \['Other'\]"):
        calls[use](extra)
    with pytest.raises(gt.NetworkError, match=r"no parameters for \['Dense_1'\]"):
        calls[use]({"Dense_0": p.params["Dense_0"]})
    with pytest.raises(gt.NetworkError, match="must be a dict"):
        calls[use](list(p.params.values()))
