"""Players by pure functions, of nnx and of Equinox: the same game as with linen layers."""

from collections.abc import Iterator
from typing import Any

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.example_libraries import stax

import gtddp_jax as gt

X = np.random.default_rng(0).standard_normal((6, 4))
LABELS = np.array([0, 1, 2, 0, 1, 2])
LOSS: Any = optax.softmax_cross_entropy_with_integer_labels


@pytest.fixture(autouse=True)
def any_ranks() -> Iterator[None]:
    """Layers of users and of stax add vectors to matrices."""
    with jax.numpy_rank_promotion("allow"):
        yield


def init_affine(key: jax.Array, x: jax.Array) -> Any:
    return {"w": jax.random.normal(key, (x.shape[-1], 5)), "b": jnp.zeros(5)}


def affine(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["w"] + params["b"]


def mixed_network() -> gt.Network:
    return gt.Network(
        [
            gt.player(init_affine, affine, name="own"),
            jnp.tanh,
            gt.Residual([nnx.Linear(5, 5, rngs=nnx.Rngs(0)), nn.relu]),
            gt.Cooperative([eqx.nn.Linear(5, 5, key=jax.random.key(1)), nn.Dense(5)]),
            gt.player(*stax.Dense(3), takes_shape=True),
        ]
    )


def linen_network() -> gt.Network:
    return gt.Network(
        [
            nn.Dense(5),
            jnp.tanh,
            gt.Residual([nn.Dense(5), nn.relu]),
            gt.Cooperative([nn.Dense(5), nn.Dense(5)]),
            nn.Dense(3),
        ]
    )


def as_linen_params(params: Any) -> Any:
    """The parameters of the mixed network, in the places of the linen network."""
    own, first, second = (params[name]["arrays"] for name in ("own", "Linear_0", "Linear_1"))
    last_kernel, last_bias = params["PurePlayer_0"]["arrays"]
    return {
        "Dense_0": {"kernel": own["w"], "bias": own["b"]},
        "Dense_1": {"kernel": first["kernel"], "bias": first["bias"]},
        "Dense_2": {"kernel": second["weight"].T, "bias": second["bias"]},
        "Dense_3": params["Dense_0"],
        "Dense_4": {"kernel": last_kernel, "bias": last_bias},
    }


@pytest.mark.slow
@pytest.mark.parametrize("rollout", ["linear", "nonlinear"])
def test_the_game_is_that_of_linen_layers(rollout: str) -> None:
    mixed, linen = mixed_network(), linen_network()
    # The modules' arrays may be in single precision.
    params = jax.tree.map(lambda u: u.astype(float), mixed.init(jax.random.key(2), X))
    updates = []
    for net, own in ((mixed, params), (linen, as_linen_params(params))):
        tx: Any = gt.rmsprop(net, LOSS, 0.02, eps=0.1, rollout=rollout)
        step = jax.jit(lambda own, tx=tx: tx.update(None, tx.init(own), own, batch=(X, LABELS)))
        update, state = step(own)
        assert state.report.sample_weight_std.max() > 1e-3
        updates.append(update)
    chex.assert_trees_all_close(as_linen_params(updates[0]), updates[1], rtol=1e-9, atol=1e-12)


def test_modules_begin_with_their_own_arrays() -> None:
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(5))
    module = eqx.nn.Linear(3, 2, key=jax.random.key(6))
    net = gt.Network([layer, jnp.tanh, module])
    params = net.init(jax.random.key(0), X)
    want = jax.vmap(module)(jnp.tanh(layer(jnp.asarray(X))))
    # In single precision, as the modules.
    chex.assert_trees_all_close(net.apply(params, X), want, rtol=1e-5)


def test_what_cannot_be_a_player_is_refused() -> None:
    shared = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    with pytest.raises(gt.NetworkError, match="same Linear object already stands at"):
        gt.Network([shared, jnp.tanh, shared])
    with pytest.raises(gt.NetworkError, match=r"Dropout.*parameters only.*Rng"):
        gt.Network([nnx.Dropout(0.5, rngs=nnx.Rngs(0))])
    with pytest.raises(gt.NetworkError, match="player: apply must be a function, got 3"):
        gt.player(init_affine, 3)  # pyright: ignore[reportArgumentType]
