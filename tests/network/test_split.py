"""A layer that is split into players is the same function, and with a diagonal P the same game."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.sequential import zoo

LOSS = zoo.LOSSES["squared"]
X = jnp.sin(jnp.arange(80.0)).reshape(2, 4, 5, 2)
LAYERS: dict[str, tuple[Callable[[], nn.Module], jax.Array]] = {
    "dense": (lambda: nn.Dense(5), X[:, 0, 0]),
    "dense on tokens": (lambda: nn.Dense(5, use_bias=False), X[:, 0]),
    "dense of two axes": (lambda: nn.DenseGeneral(5, axis=(-2, -1)), X),
    "convolution": (lambda: nn.Conv(5, (3, 2), strides=2), X),
    "local convolution": (lambda: nn.ConvLocal(5, (2, 2)), X),
    "transposed convolution": (lambda: nn.ConvTranspose(5, (2, 2), strides=(2, 2)), X),
    "embedding": (lambda: nn.Embed(7, 5), jnp.asarray([[1, 6, 0], [3, 3, 2]])),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_split_layer_is_the_same_function(name: str) -> None:
    make, x = LAYERS[name]
    layer = make()
    whole = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(float(leaf.size))).reshape(leaf.shape),
        layer.init(jax.random.key(0), x)["params"],
    )
    branches: Any = gt.split(layer, 3).branches
    parts = gt.split_params(whole, 3)
    players = [branch[0] for branch in branches]
    assert [player.features for player in players] == [2, 2, 1]
    outputs = [
        player.apply({"params": part}, x) for player, part in zip(players, parts, strict=True)
    ]
    want: Any = layer.apply({"params": whole}, x)
    np.testing.assert_allclose(jnp.concatenate(outputs, -1), want, rtol=1e-12, atol=1e-14)
    jax.tree.map(np.testing.assert_array_equal, gt.join_params(parts), whole)


@pytest.mark.slow
def test_a_split_network_takes_the_steps_of_the_whole_one() -> None:
    """With a diagonal P a stage responds as a whole; its players may be any parts."""

    def layers(head: Any, body: Any) -> list[Any]:
        return [head, jnp.tanh, gt.Residual([body, jnp.tanh], nn.Dense(4)), nn.Dense(3)]

    wide, deep = (nn.Dense(4, name=name) for name in ("wide", "deep"))
    p = zoo.make(zoo.Spec(lambda: layers(wide, deep)), batch=5)
    net = gt.Network(layers(gt.split(wide, 4), gt.split(deep, 3)))
    assert net.stages[0].players == ("wide_0", "wide_1", "wide_2", "wide_3")

    def to_players(whole: Any) -> Any:
        parts = dict(whole)
        for name, count in (("wide", 4), ("deep", 3)):
            trees = gt.split_params(parts.pop(name), count)
            parts |= {f"{name}_{number}": tree for number, tree in enumerate(trees)}
        return parts

    options: dict[str, Any] = {"rollout": "nonlinear", "eps": 0.01}

    @jax.jit
    def run() -> tuple[Any, Any, jax.Array]:
        def two_steps(net: gt.Network, params: Any) -> tuple[Any, Any]:
            tx: Any = gt.adam(net, LOSS, 0.05, **options)
            state = tx.init(params)
            for _ in range(2):
                updates, state = tx.update(None, state, params, batch=(p.x, p.y))
                params = optax.apply_updates(params, updates)
            return params, state.report.feedback_ratio.max()

        whole, ratio = two_steps(p.net, p.params)
        return to_players(whole), two_steps(net, to_players(p.params))[0], ratio

    want, got, ratio = run()
    assert ratio > 1e-3
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13), got, want)


class CustomDense(nn.Dense):
    """A subclass, which may do anything."""


UNKNOWN: Any = "x"
PARAMS = {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}
REFUSED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "no units": (
        lambda: gt.split(nn.LayerNorm(), 2),
        ["split: LayerNorm is not known to have its output units", "nn.Dense, ", "gt.Parallel("],
    ),
    "a subclass": (lambda: gt.split(CustomDense(4), 2), ["split: CustomDense is not known"]),
    "one player": (lambda: gt.split(nn.Dense(4), 1), ["split(players=1)", "an int from 2 to 4"]),
    "too many": (lambda: gt.split(nn.Dense(4), 5), ["players=5", "has 4 output units"]),
    "no number": (lambda: gt.split(nn.Dense(4), UNKNOWN), ["split(players='x')"]),
    "groups": (
        lambda: gt.split(nn.Conv(4, (1,), feature_group_count=2), 2),
        ["feature_group_count=2", "read different inputs", "with one group"],
    ),
    "transposed kernel": (
        lambda: gt.split(nn.ConvTranspose(4, (1,), transpose_kernel=True), 2),
        ["transpose_kernel=True) has its output units in another axis"],
    ),
    "several axes": (
        lambda: gt.split(nn.DenseGeneral((4, 2)), 2),
        ["nn.DenseGeneral(features=(4, 2), ...) has several axes of units"],
    ),
    "parameters of a network": (
        lambda: gt.split_params({"a": PARAMS, "b": jnp.ones((5, 2))}, 2),
        ["split_params(players=2): got parameters of shapes [(5,), (3, 5), (5, 2)]"],
    ),
    "more players than units": (
        lambda: gt.split_params(PARAMS, 6),
        ["split_params(players=6)", "from 1 to the number of units"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused(name: str) -> None:
    build, words = REFUSED[name]
    with pytest.raises(gt.NetworkError) as raised:
        build()
    assert all(word in str(raised.value) for word in words), raised.value


def test_the_table_shows_the_players_of_a_split_layer() -> None:
    net = gt.Network([gt.split(nn.Dense(5), 2), jnp.tanh, nn.Dense(2)])
    params = net.init(jax.random.key(0), jnp.ones((4, 3)))
    text = gt.explain(net, params, jnp.ones((4, 3)))
    assert "Dense_0" in text and "Dense_1" in text
