"""Random residual graphs, exactly."""

import functools
from typing import Any

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import optax
from hypothesis import strategies as st

import gtddp_jax as gt
from gtddp_jax.game.rollout import ROLLOUTS
from tests.core import methods, oracle, zoo

WIDTH = 3
RHO = 0.3

Plan = tuple  # a description that hypothesis can print and shrink


def count(plans: list[Plan]) -> int:
    """How many parametric stages a chain of plans has."""
    return sum(1 if kind != "residual" else count(rest[0]) for kind, *rest in plans if kind != "f")


def layer(plan: Plan) -> Any:
    """A plan as a layer; every layer maps [B, 3] to [B, 3]."""
    kind, *rest = plan
    if kind == "f":
        return jnp.tanh
    if kind == "dense":
        return nn.Dense(WIDTH, use_bias=rest[0])
    if kind == "gate":
        return zoo.Gate()
    if kind == "cooperative":
        return gt.Cooperative([layer(player) for player in rest[0]])
    body, shortcut, place = rest
    at = place % (count(body) - max(1, count(shortcut)) + 1)
    return gt.Residual([layer(b) for b in body], [layer(s) for s in shortcut] or None, at=at)


def rate_for(p: zoo.Problem) -> float:
    """A rate at which the largest rho is `RHO`: for a squared loss, h = 1 / |g|^2 = 1 / 2 phi."""

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def one(params: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        def loss(params: Any) -> jax.Array:
            return zoo.LOSSES["squared"](p.net.apply(params, x[None]), y[None])[0]

        value, g = jax.value_and_grad(loss)(params)
        size = {name: optax.tree.norm(own, squared=True) for name, own in g.items()}
        return value, [sum(size[name] for name in stage.players) for stage in p.net.stages]

    value, sizes = one(p.params, p.x, p.y)
    return RHO * value.size / float(max((size / (2 * value)).max() for size in sizes))


dense = st.tuples(st.just("dense"), st.booleans())
leaf = st.one_of(dense, st.just(("gate",)))
cooperative = st.tuples(st.just("cooperative"), st.lists(leaf, min_size=2, max_size=3))
function = st.just(("f",))


def blocks(inner: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    body = st.tuples(st.lists(st.one_of(inner, function), max_size=2), dense).map(
        lambda parts: [*parts[0], parts[1]]
    )
    shortcut = st.lists(st.one_of(leaf, function), max_size=2)
    return st.tuples(st.just("residual"), body, shortcut, st.integers(0, 3)).filter(
        lambda plan: count(plan[2]) <= count(plan[1])
    )


layers = st.recursive(st.one_of(leaf, cooperative), blocks, max_leaves=3)
networks = st.lists(st.one_of(layers, function), min_size=1, max_size=3).filter(
    lambda plans: 2 <= count(plans) <= 6
)


@hypothesis.settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # shrinking takes minutes
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)
@hypothesis.given(networks, st.integers(0, 2**16))
def test_random_graph_equals_the_dense_definition(plans: list[Plan], seed: int) -> None:
    p = zoo.make(zoo.Spec(lambda: [layer(plan) for plan in plans], (WIDTH,)), seed=seed)
    rate = rate_for(p)
    method = methods.sgd(gt.curvature.identity(rate), rate)
    games = {r: oracle.Game("squared", method, rollout=r) for r in ROLLOUTS}
    oracle.compare(p, games, spread=1e-3)
