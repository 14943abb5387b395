"""The parameters that a tail consists of, in every kind of model."""

import itertools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import gtddp_jax as gt
from gtddp_jax.implicit.predictors import resolve_predictors
from gtddp_jax.tracing.parameter_costs import parameter_costs
from tests.implicit import models
from tests.implicit.models import implicit

Tree = Any
X = jnp.ones((2, 3))


class Model(NamedTuple):
    """A model of three layers, and the paths of the last layer's parameters."""

    apply_fn: Any
    params: Tree
    head: tuple[str, ...]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2)(nn.tanh(nn.Dense(4)(nn.tanh(nn.Dense(4)(x)))))


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.a_head = nnx.Linear(4, 2, rngs=rngs)  # first by name, last to act

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = nnx.tanh(layer(x))
        return self.a_head(x)


def linen() -> Model:
    module = Linen()
    params = module.init(jax.random.key(0), X)["params"]
    head = ("Dense_0/bias", "Dense_0/kernel")  # constructed first, last to act
    return Model(lambda params, x: module.apply({"params": params}, x), params, head)


def nnx_model(*, pure: bool) -> Model:
    graph, params = nnx.split(Nnx(nnx.Rngs(0)), nnx.Param)
    leaf = "" if pure else "/value"
    return Model(
        lambda params, x: nnx.merge(graph, params)(x),
        nnx.as_pure(params) if pure else params,
        (f"a_head/bias{leaf}", f"a_head/kernel{leaf}"),
    )


def pairs() -> Model:
    sizes = (3, 4, 4, 2)
    params = [(jnp.ones((a, b)), jnp.ones(b)) for a, b in itertools.pairwise(sizes)]

    def apply_fn(params: Tree, x: jax.Array) -> jax.Array:
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w + b[None])
        return x @ params[-1][0] + params[-1][1][None]

    return Model(apply_fn, params, ("2/0", "2/1"))


def network() -> Model:
    net = gt.Network([nn.Dense(4), jnp.tanh, gt.Residual([nn.Dense(4)]), nn.Dense(2)])
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), net.param_shapes(X))
    last = net.players[-1]
    return Model(net.apply, params, (f"{last}/bias", f"{last}/kernel"))


MODELS = {
    "linen": linen,
    "nnx": lambda: nnx_model(pure=False),
    "nnx, pure": lambda: nnx_model(pure=True),
    "plain dict": lambda: Model(models.mlp, models.mlp_params(), ("out/b", "out/w")),
    "list of tuples": pairs,
    "network": network,
}


def selected(model: Model, tail: Any, cost_limit: float = 0.5) -> list[tuple[str, ...]]:
    """The paths of each set's leaves."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(model.params)
    ]
    found = parameter_costs(lambda params: model.apply_fn(params, X), model.params)
    sets = resolve_predictors(tail, model.params, found, cost_limit)
    return [tuple(paths[i] for i in s.leaves) for s in sets]


@pytest.mark.parametrize("name", MODELS)
def test_head_is_the_last_layer(name: str) -> None:
    model = MODELS[name]()
    assert selected(model, "head") == [model.head]
    assert selected(model, "auto", 0.01) == [model.head]


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_by_path_or_mask(name: str) -> None:
    model = MODELS[name]()
    layer = model.head[0].removesuffix("/value").rpartition("/")[0]
    assert selected(model, layer) == [model.head]
    assert selected(model, model.head[1]) == [model.head[1:]]
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/") in model.head,
        model.params,
    )
    assert selected(model, mask) == [model.head]
    assert selected(model, lambda params: mask) == [model.head]


def test_a_mask_may_be_a_prefix() -> None:
    model = MODELS["plain dict"]()
    assert selected(model, {"hidden": False, "out": True}) == [("out/b", "out/w")]
    assert selected(model, {"hidden": {"w": False, "b": True}, "out": True}) == [
        ("hidden/b", "out/b", "out/w")
    ]
    assert len(selected(model, True)[0]) == 4


def test_names_need_not_be_whole_paths_but_whole_parts() -> None:
    """`Dense_1` is not `Dense_10`."""
    params = {f"Dense_{i}": {"kernel": jnp.ones((3, 3))} for i in range(11)}

    def apply_fn(params: Tree, x: jax.Array) -> jax.Array:
        for layer in params.values():
            x = jnp.tanh(x @ layer["kernel"])
        return x

    model = Model(apply_fn, params, ())
    assert selected(model, "Dense_1") == [("Dense_1/kernel",)]
    assert len(selected(model, "auto", 1.0)) == 4


def test_auto_candidates() -> None:
    """The head and the longest tails within a quarter, a half and the whole of the limit."""
    params = [jnp.ones((3, 3)) for _ in range(10)]

    def apply_fn(params: Tree, x: jax.Array) -> jax.Array:
        for w in params:
            x = jnp.tanh(x @ w)
        return x

    model = Model(apply_fn, params, ())

    def sizes(cost_limit: float) -> list[int]:
        return [len(paths) for paths in selected(model, "auto", cost_limit)]

    assert sizes(0.05) == [1]
    assert sizes(0.201) == [1, 2]
    assert sizes(0.401) == [1, 2, 4]
    assert sizes(0.801) == [1, 2, 4, 8]
    assert sizes(1.0) == [1, 2, 5, 10]


@pytest.mark.parametrize("tail", ["Dense_9", {"hidden": False, "out": False}, "out/"])
def test_a_tail_of_nothing_names_the_paths(tail: Any) -> None:
    model = MODELS["plain dict"]()
    message = r"selects no parameter\. Supported: \('auto', 'head'\).*\['hidden/b', 'hidden/w', 'o"
    with pytest.raises(ValueError, match=message):
        selected(model, tail)


@pytest.mark.parametrize("tail", ["auto", "head"])
def test_models_without_products_are_named(tail: str) -> None:
    model = Model(lambda params, x: x * params["scale"], {"scale": jnp.ones((1, 3))}, ())
    with pytest.raises(ValueError, match=r"no parameter of this model takes part.*'product'"):
        selected(model, tail)
    assert selected(model, "scale") == [("scale",)]


def test_errors_reach_the_user() -> None:
    p = models.classification()
    tx = implicit(optax.sgd(0.1), p.apply_fn, p.loss, tail="head_of_state")
    with pytest.raises(ValueError, match="tail='head_of_state' selects no parameter"):
        jax.eval_shape(lambda u: tx.update(None, tx.init(u), u, batch=(p.x, p.y)), p.params)
