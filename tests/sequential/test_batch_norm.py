"""Batch normalization and dropout in a list of stages, against plain Flax and the reference."""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

STEPS = 10
LOSS = optax.softmax_cross_entropy_with_integer_labels
FIRST: dict[str, Any] = {"momentum": 0.8, "epsilon": 1e-3}
SECOND: dict[str, Any] = {"use_scale": False, "use_fast_variance": False}
THIRD: dict[str, Any] = {"use_scale": False, "use_bias": False, "momentum": 0.9}


class Plain(nn.Module):
    """The network of `by_stages` as a Flax module."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        drop = functools.partial(nn.Dropout, deterministic=not train)
        x = nn.relu(norm(**FIRST)(zoo.conv(3, use_bias=False)(x)))
        h = nn.relu(norm(**SECOND)(zoo.conv(3, use_bias=False)(x)))
        h = zoo.conv(3, use_bias=False)(drop(0.2)(h))
        x = nn.relu(x + norm(**THIRD)(h))
        return nn.Dense(3)(drop(0.3)(zoo.flatten(x)))


def by_stages(**options: Any) -> gt.Network:
    """The same network as stages; `options` are those of its first normalization."""
    body = [zoo.conv(3, use_bias=False), nn.BatchNorm(**SECOND), nn.relu, nn.Dropout(0.2)]
    return gt.Network(
        [
            zoo.conv(3, use_bias=False),
            nn.BatchNorm(**FIRST | options),
            nn.relu,
            gt.Residual([*body, zoo.conv(3, use_bias=False), nn.BatchNorm(**THIRD)]),
            nn.relu,
            zoo.flatten,
            nn.Dropout(0.3),
            nn.Dense(3),
        ]
    )


class Setting:
    """A network, its variables in float64, and a batch and a key for each step."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.net: Any = by_stages()
        self.x = jnp.asarray(rng.normal(size=(STEPS, 6, 3, 3, 2)))
        self.y = jnp.asarray(rng.integers(0, 3, (STEPS, 6)))
        self.keys = jax.random.split(jax.random.key(5), STEPS)
        variables = Plain().init(jax.random.key(0), self.x[0], False)
        variables = jax.tree.map(lambda v: v.astype(jnp.float64), variables)
        self.params, self.stats = variables["params"], variables["batch_stats"]

    @property
    def rngs(self) -> dict[str, jax.Array]:
        return {"dropout": self.keys[0]}

    @property
    def batch(self) -> tuple[jax.Array, jax.Array]:
        return self.x[0], self.y[0]


@pytest.fixture(scope="module")
def setting() -> Setting:
    with jax.enable_x64(True):
        return Setting()


def largest_difference(a: Any, b: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


BASES: dict[str, tuple[Any, Any]] = {
    "momentum": (functools.partial(gt.sgd, learning_rate=0.05, momentum=0.9), optax.sgd(0.05, 0.9)),
    "adam": (functools.partial(gt.adam, learning_rate=0.01), optax.adam(0.01)),
}


@pytest.mark.slow
def test_feedback_off_is_the_plain_flax_step(setting: Setting) -> None:
    """Ten steps with the same parameters, running statistics and dropped units."""
    s = setting

    def plain(tx: Any) -> Any:
        def mean_loss(params: Any, stats: Any, x: Any, y: Any, key: Any) -> Any:
            outputs, changed = Plain().apply(
                {"params": params, "batch_stats": stats},
                x,
                True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return LOSS(outputs, y).mean(), changed["batch_stats"]

        def step(carry: Any, batch: Any) -> Any:
            params, stats, state = carry
            gradient, stats = jax.grad(mean_loss, has_aux=True)(params, stats, *batch)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), stats, state), None

        start = (s.params, s.stats, tx.init(s.params))
        return jax.lax.scan(step, start, (s.x, s.y, s.keys))[0][:2]

    def ours(build: Any) -> Any:
        tx = build(s.net, LOSS, equilibrium="open_loop", batch_stats=s.stats)

        def step(carry: Any, batch: Any) -> Any:
            (params, state), (x, y, key) = carry, batch
            updates, state = tx.update(None, state, params, batch=(x, y), rngs={"dropout": key})
            return (optax.apply_updates(params, updates), state), None

        start = (s.params, tx.init(s.params))
        params, state = jax.lax.scan(step, start, (s.x, s.y, s.keys))[0]
        return params, state.batch_stats

    @jax.jit
    def run() -> Any:
        return {name: (ours(build), plain(tx)) for name, (build, tx) in BASES.items()}

    for name, (got, want) in run().items():
        assert jax.tree.structure(got) == jax.tree.structure(want)
        assert largest_difference(got, want) < 1e-12, name
        assert largest_difference(want[0], s.params) > 0.01, name
        assert largest_difference(want[1], s.stats) > 0.1, name


@pytest.mark.slow
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_a_step_moves_the_statistics_once(setting: Setting, rollout: str) -> None:
    """The first forward pass updates them, for either rollout; a skipped step does not."""
    s = setting
    tx: Any = gt.adam(s.net, LOSS, 0.1, rollout=rollout, batch_stats=s.stats)
    step = jax.jit(tx.update)
    given = {"params": s.params, "batch": s.batch, "rngs": s.rngs}
    _, state = step(None, tx.init(s.params), **given)
    _, want = s.net.apply(s.params, s.x[0], batch_stats=s.stats, train=True, rngs=s.rngs)
    assert largest_difference(state.batch_stats, want) < 1e-14
    assert largest_difference(want, s.stats) > 0.01
    x = s.x[0].at[0].set(jnp.nan)
    updates, after = step(None, state, s.params, batch=(x, s.y[0]), rngs=s.rngs)
    assert after.report.skipped and not state.report.skipped
    assert largest_difference(after.batch_stats, state.batch_stats) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("rollout", quick_cases(ROLLOUTS))
def test_with_dropout_equals_the_dense_definition(setting: Setting, rollout: str) -> None:
    """Forward pass and rollout share one key, with feedback and batch normalization."""
    s, rate = setting, 0.02

    def gains(t: int, q: jax.Array) -> gt.reference.Gains:
        return gt.reference.Gains(-rate * q, rate * jnp.eye(q.size), lambda closed: -rate * closed)

    @jax.jit
    def both() -> Any:
        tx: Any = gt.sgd(s.net, LOSS, rate, rollout=rollout, batch_stats=s.stats)
        updates, state = tx.update(None, tx.init(s.params), s.params, batch=s.batch, rngs=s.rngs)
        stages = s.net.bind(s.stats, train=True, rngs=s.rngs)
        want = gt.reference.collapsed_step(
            stages, s.params, s.x[0], lambda o: LOSS(o, s.y[0]), gains,
            max_shift=1.0,
            bounds=(0.02, 10.0),
            coupled_stages=s.net.coupled_stages,
            rollout=rollout,
        )  # fmt: skip
        return updates, want, state.report

    got, want, report = both()
    assert report.sample_weight_max - report.sample_weight_min > 0.02
    assert oracle.relative_error(got, want) < 1e-9


@pytest.mark.parametrize(
    ("layers", "coupled"),
    [
        ([nn.Dense(3), nn.tanh, nn.Dense(2)], 0),
        ([nn.Dense(3), nn.BatchNorm(), nn.tanh, nn.Dense(2)], 1),
        ([nn.Dense(3), nn.BatchNorm(**THIRD), nn.tanh, nn.Dense(2)], 1),
        ([nn.Dense(3), nn.BatchNorm(), nn.Dense(2), nn.BatchNorm()], 3),
        ([nn.Dense(3), nn.BatchNorm(use_running_average=True), nn.Dense(2)], 0),
        ([nn.BatchNorm(), nn.Dense(2)], 0),
        ([nn.Dense(3), gt.Residual([nn.BatchNorm(), nn.relu, nn.Dense(3)]), nn.Dense(2)], 1),
    ],
)
def test_stages_before_the_last_normalisation(layers: list[Any], coupled: int) -> None:
    net = gt.Network(layers)
    net.init_variables(jax.random.key(0), jnp.zeros((2, 4)))
    assert net.coupled_stages == coupled


@pytest.mark.slow
def test_they_take_the_step_of_the_base(setting: Setting) -> None:
    """Their step follows the gradient of the loss, which is orthogonal to normalized weights."""
    s = setting

    def step(feedback: bool) -> Any:
        tx: Any = gt.sgd(
            s.net,
            LOSS,
            0.3,
            equilibrium="feedback" if feedback else "open_loop",
            batch_stats=s.stats,
        )
        found, state = tx.update(None, tx.init(s.params), s.params, batch=s.batch, rngs=s.rngs)
        return found, state.report

    (ours, report), (base, _) = (jax.jit(step, static_argnums=0)(on) for on in (True, False))
    early = {n for stage in s.net.stages[: s.net.coupled_stages] for n in stage.players}
    assert early == {"Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Conv_2"}
    for name in ours:
        same = largest_difference(ours[name], base[name]) < 1e-14
        assert same == (name in early), name
    assert (report.feedback_ratio[: s.net.coupled_stages] == 0).all()
    assert (report.sample_weight_std[: s.net.coupled_stages] == 0).all()
    assert 0.1 < report.sample_weight_min < 1 <= report.sample_weight_max


def test_apply_is_that_of_flax(setting: Setting) -> None:
    s = setting
    variables = {"params": s.params, "batch_stats": s.stats}
    evaluated: Any = Plain().apply(variables, s.x[0], False)
    got = s.net.apply(s.params, s.x[0], batch_stats=s.stats)
    np.testing.assert_allclose(got, evaluated, rtol=1e-12, atol=1e-12)
    want: Any = Plain().apply(variables, s.x[0], True, rngs=s.rngs, mutable=["batch_stats"])
    outputs, stats = s.net.apply(s.params, s.x[0], batch_stats=s.stats, train=True, rngs=s.rngs)
    np.testing.assert_allclose(outputs, want[0], rtol=1e-12, atol=1e-12)
    assert largest_difference(stats, want[1]["batch_stats"]) < 1e-14
    assert largest_difference(outputs, got) > 0.1


def test_variables_of_a_fresh_network(setting: Setting) -> None:
    s = setting
    params, stats = zoo.variable_shapes(s.net, s.x[0])
    flax = jax.eval_shape(lambda x: Plain().init(jax.random.key(0), x, False), s.x[0])
    assert {"params": params, "batch_stats": stats} == dict(flax)
    assert s.net.has_batch_stats and s.net.rng_collections == ("dropout",)
    net, x = gt.Network([nn.BatchNorm(), nn.Dense(2)]), jnp.ones((2, 3))
    variables = net.init_variables(jax.random.key(3), x)
    params = net.init(jax.random.key(3), x)
    chex.assert_trees_all_equal(params, variables["params"])
    fresh = {"mean": np.zeros(3), "var": np.ones(3)}
    chex.assert_trees_all_equal(variables["batch_stats"], {"BatchNorm_0": fresh})
    plain = gt.Network([nn.Dense(2)])
    assert not plain.has_batch_stats and not plain.rng_collections
    assert plain.init_variables(jax.random.key(0), x)["batch_stats"] == {}


def test_statistics_keep_their_dtype_and_the_users_copy(setting: Setting) -> None:
    """Statistics stay float32 with float64 activations; donation keeps the user's copy."""
    s = setting
    stats = zoo.cast(s.stats, jnp.float32)
    tx = gt.sgd(s.net, LOSS, 0.1, equilibrium="open_loop", batch_stats=stats)
    step = jax.jit(tx.update, donate_argnums=1)
    _, state = step(None, tx.init(s.params), s.params, batch=s.batch, rngs=s.rngs)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.batch_stats)} == {jnp.dtype("float32")}
    assert largest_difference(stats, s.stats) == 0  # still there


def test_frozen_layers_and_idle_dropout() -> None:
    """`use_running_average=True` keeps its averages; `deterministic=True` needs no key."""
    layers = [nn.Dense(3), nn.BatchNorm(use_running_average=True), jnp.tanh]
    net: Any = gt.Network(
        [*layers, nn.Dropout(0.5, deterministic=True), nn.Dropout(0.0), nn.Dense(2)]
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    variables: Any = net.init_variables(jax.random.key(0), x)
    outputs, stats = net.apply(**variables, x=x, train=True)
    np.testing.assert_array_equal(outputs, net.apply(**variables, x=x))
    tx: Any = gt.sgd(net, LOSS, 0.1, batch_stats=variables["batch_stats"])
    params = variables["params"]
    step = jax.jit(tx.update)
    _, state = step(None, tx.init(params), params, batch=(x, jnp.arange(4) % 2))
    for found in (stats, state.batch_stats):
        chex.assert_trees_all_equal(found, variables["batch_stats"])


@pytest.mark.parametrize("method", quick_cases([gt.kfac, gt.ekfac]))
def test_kronecker_with_a_method_for_scale_and_bias(setting: Setting, method: Any) -> None:
    """The players of a normalization have no Kronecker form; `other` handles them."""
    s = setting
    other = gt.curvature.Adam(0.01)
    tx: Any = method(
        s.net, LOSS, 0.05, damping=0.1, other=other, equilibrium="open_loop", batch_stats=s.stats
    )
    adam: Any = gt.adam(s.net, LOSS, 0.01, equilibrium="open_loop", batch_stats=s.stats)

    @jax.jit
    def both() -> Any:
        given = {"batch": s.batch, "rngs": s.rngs}
        return [t.update(None, t.init(s.params), s.params, **given) for t in (tx, adam)]

    (got, state), (want, _) = both()
    assert not state.report.skipped
    for name in want:
        difference = largest_difference(got[name], want[name])
        assert (difference < 1e-12) == name.startswith("BatchNorm"), (name, difference)


def test_the_implicit_game_takes_a_network_with_statistics() -> None:
    """With `has_aux`; strength 0 gives the plain step."""
    problem = zoo.problem("batch_norm", batch=4)
    loss = zoo.LOSSES["squared"]

    def apply_fn(params: Any, inputs: Any) -> Any:
        x, stats = inputs
        return problem.net.apply(params, x, batch_stats=stats, train=True)

    updates = {}
    options: dict[str, Any] = {"weighting": "full", "has_aux": True, "aux": problem.batch_stats}
    for strength in (0.0, 1.0):
        tx: Any = gt.implicit(optax.sgd(0.1), apply_fn, loss, strength=strength, **options)
        batch = ((problem.x, problem.batch_stats), problem.y)
        updates[strength], state = jax.jit(tx.update)(
            None, tx.init(problem.params), problem.params, batch=batch
        )
    plain: Any = gt.sgd(
        problem.net, loss, 0.1, equilibrium="open_loop", batch_stats=problem.batch_stats
    )
    want, after = jax.jit(plain.update)(
        None, plain.init(problem.params), problem.params, batch=(problem.x, problem.y)
    )
    assert largest_difference(updates[0.0], want) < 1e-12
    assert largest_difference(updates[1.0], want) > 1e-3
    assert largest_difference(state.aux, after.batch_stats) < 1e-12


def test_make_update_takes_keys(setting: Setting) -> None:
    s = setting
    step: Any = gt.make_update(
        gt.sgd(s.net, LOSS, 0.1, equilibrium="open_loop", batch_stats=s.stats)
    )
    state = gt.sgd(s.net, LOSS, 0.1, batch_stats=s.stats).init(s.params)
    params, after = step(s.params, state, s.batch, s.rngs)
    again, _ = step(s.params, state, s.batch, s.rngs)
    other, _ = step(s.params, state, s.batch, {"dropout": s.keys[1]})
    assert largest_difference(params, again) == 0 and largest_difference(params, other) > 1e-3
    assert largest_difference(after.batch_stats, s.stats) > 0.01
    with pytest.raises(gt.NetworkError, match=r"rngs is missing \['dropout'\]"):
        step(s.params, state, s.batch)
    with pytest.raises(gt.NetworkError, match="rngs must be a dict"):
        step(s.params, state, s.batch, s.keys[0])


def test_what_is_missing_is_said(setting: Setting) -> None:
    s = setting
    with pytest.raises(gt.NetworkError, match=r"BatchNorm_2.* net\.init_variables"):
        s.net.apply(s.params, s.x[0])
    with pytest.raises(gt.NetworkError, match=r"needed .*BatchNorm_2"):
        s.net.apply(s.params, s.x[0], batch_stats={"BatchNorm_0": s.stats["BatchNorm_0"]})
    with pytest.raises(gt.NetworkError, match=r"net\.bind"):
        s.net.stages[1](s.params, (s.x[0],))


def test_low_precision() -> None:
    """Normalized values are bfloat16, statistics and sums float32."""
    layers = [nn.Dense(8), nn.BatchNorm(dtype=jnp.bfloat16), jnp.tanh, nn.Dense(2)]
    net: Any = gt.Network(layers)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
    variables = net.init_variables(jax.random.key(0), x)
    outputs, stats = net.apply(**variables, x=x, train=True)
    wide: Any = gt.Network([nn.Dense(8), nn.BatchNorm(), jnp.tanh, nn.Dense(2)])
    want, _ = wide.apply(**variables, x=x, train=True)
    np.testing.assert_allclose(outputs, want, atol=0.03)
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
