"""A stage list and a Flax module of the same network get the same updates, to 1e-9."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from tests.sequential import oracle, zoo
from tests.sequential.methods import METHODS

Tree = Any


class FunctionModule(nn.Module):
    """Runs a function that calls modules by the names of the stage list's players."""

    body: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.body(x)


def dense(width: int, number: int, **options: Any) -> nn.Dense:
    return nn.Dense(width, name=f"Dense_{number}", **options)


def conv(width: int, number: int, size: tuple[int, ...] = (3, 3), **options: Any) -> nn.Conv:
    return nn.Conv(width, size, name=f"Conv_{number}", **options)


def feedforward(x: jax.Array) -> jax.Array:
    x = nn.softplus(dense(5, 1)(jnp.tanh(dense(4, 0)(x))))
    return dense(3, 3)(jnp.tanh(dense(4, 2)(x)))


def identity(x: jax.Array) -> jax.Array:
    x = jnp.tanh(dense(4, 0)(x))
    x = x + dense(4, 2)(jnp.tanh(dense(4, 1)(x)))
    return dense(3, 3)(jnp.tanh(x))


def shortcut_at_0(x: jax.Array) -> jax.Array:
    x = jnp.tanh(dense(3, 0)(x))
    body = dense(4, 3)(jnp.tanh(dense(4, 2)(jnp.tanh(dense(5, 1)(x)))))
    return dense(3, 5)(jnp.tanh(body + dense(4, 4)(x)))


def cooperative(x: jax.Array) -> jax.Array:
    x = jnp.tanh(dense(4, 0)(x))
    x = jnp.tanh(dense(4, 1)(x) + dense(4, 2, use_bias=False)(x))
    return dense(3, 3)(x)


def norms(x: jax.Array) -> jax.Array:
    x = nn.LayerNorm(name="LayerNorm_0")(dense(4, 0)(x))
    x = x + dense(4, 1)(jnp.tanh(nn.LayerNorm(name="LayerNorm_1")(x)))
    return dense(3, 2)(x)


def tokens(x: jax.Array) -> jax.Array:
    x = jnp.tanh(dense(4, 0)(x))
    x = x + jnp.tanh(dense(4, 1)(x))
    return dense(3, 2)(x.mean(1))


def convolutions(x: jax.Array) -> jax.Array:
    x = jnp.tanh(conv(3, 0)(x))
    x = jnp.tanh(x + conv(3, 2)(jnp.tanh(conv(3, 1)(x))))
    return dense(3, 0)(x.reshape(x.shape[0], -1))


def projection(x: jax.Array) -> jax.Array:
    x = jnp.tanh(conv(2, 0, (2, 2), strides=2)(x)) + conv(2, 1, (1, 1), strides=2)(x)
    return dense(2, 0)(x.reshape(x.shape[0], -1))


def grouped(x: jax.Array) -> jax.Array:
    x = jnp.tanh(conv(4, 0, (3, 2), padding=((1, 2), (0, 1)), use_bias=False)(x))
    x = conv(2, 1, (2, 2), kernel_dilation=2, padding="VALID", feature_group_count=2)(x)
    return dense(3, 0)(x.mean((1, 2)))


PAIRS: dict[str, Callable[..., jax.Array]] = {
    "feedforward": feedforward,
    "identity": identity,
    "shortcut_at_0": shortcut_at_0,
    "cooperative": cooperative,
    "norms": norms,
    "tokens": tokens,
    "conv": convolutions,
    "conv_small": projection,
    "conv_grouped": grouped,
}
"""Networks of `tests.sequential.zoo` as Flax modules."""

SGD = {"sgd": METHODS["sgd_momentum"].curvature}
CURVATURES = SGD | {
    "adam": METHODS["adam_eps"].curvature,
    "ekfac": gt.curvature.EKFAC(0.1, damping=0.1, refresh_every=1, factors_every=1),
}
LINEAR = ("norms",)
"""Networks that agree under the linear rollout only. A stage list counts the normalisation of a
LayerNorm to its player. A trace counts it, like every function between two players, to the first
of them, which changes the nonlinear rollout."""
ALL_CURVATURES = ("tokens", "conv_small")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_both_descriptions_get_the_same_updates(name: str) -> None:
    p = zoo.problem(name, batch=3)
    flax = gt.from_flax(FunctionModule(PAIRS[name]), p.x)
    assert set(flax.players) == set(p.net.players)
    assert [set(s.players) for s in flax.stages] == [set(s.players) for s in p.net.stages]
    rollouts = ("linear",) if name in LINEAR else ("linear", "nonlinear")
    curvatures = CURVATURES if name in ALL_CURVATURES else SGD

    @jax.jit
    def steps(params: Tree) -> Any:
        found = {}
        for label, curvature in curvatures.items():
            for rollout in rollouts if label == "sgd" else rollouts[:1]:
                for net in (p.net, flax):
                    tx: Any = gt.gtddp(net, zoo.LOSSES["softmax"], curvature, rollout=rollout)
                    state, moved, step = tx.init(params), params, params
                    for _ in range(2):
                        step, state = tx.update(None, state, moved, batch=(p.x, p.y))
                        moved = jax.tree.map(jnp.add, moved, step)
                    key = f"{label}, {rollout}"
                    found.setdefault(key, []).append((step, state.report.sample_weight_max))
        return found

    for label, ((want, weight), (got, _)) in steps(p.params).items():
        assert weight != 1, label
        assert oracle.relative_error(got, want) < 1e-9, label


def normalised(x: jax.Array) -> jax.Array:
    x = nn.BatchNorm(use_running_average=False, name="BatchNorm_0")(dense(4, 0)(x))
    return dense(3, 1)(jnp.tanh(x))


@pytest.mark.slow
def test_both_descriptions_agree_on_batch_normalisation() -> None:
    x, y = (jnp.asarray(np.random.default_rng(i).normal(size=(3, 3))) for i in range(2))
    network = gt.Network([nn.Dense(4), nn.BatchNorm(), jnp.tanh, nn.Dense(3)])
    flax = gt.from_flax(FunctionModule(normalised), x)
    variables = network.init_variables(jax.random.key(0), x)
    params, stats = (zoo.cast(variables[k], jnp.float64) for k in ("params", "batch_stats"))

    def one_step(net: Any) -> Any:
        curvature = METHODS["adam_eps"].curvature
        tx: Any = gt.gtddp(net, zoo.LOSSES["squared"], curvature, batch_stats=stats)
        step, state = jax.jit(tx.update)(None, tx.init(params), params, batch=(x, y))
        assert state.report.sample_weight_max - state.report.sample_weight_min > 0.01
        return step, state.batch_stats

    (want, want_stats), (got, got_stats) = one_step(network), one_step(flax)
    assert oracle.relative_error(got, want) < 1e-9
    chex.assert_trees_all_close(got_stats, want_stats, rtol=1e-12)
