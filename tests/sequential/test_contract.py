"""The contract of optax transformations, for every alias and rollout."""

import functools
from collections.abc import Callable
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

LOSS = zoo.LOSSES["softmax"]


def from_optax(net: gt.Network, loss: Any, learning_rate: Any, rollout: str = "linear") -> Any:
    curvature = gt.curvature.FromOptax(optax.adam(learning_rate))
    return gt.gtddp(net, loss, curvature, rollout=rollout)


ALIASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "sgd": (gt.sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    "rmsprop": (gt.rmsprop, {"learning_rate": 0.02}),
    "adam": (gt.adam, {"learning_rate": 0.05}),
    "adamw": (gt.adamw, {"learning_rate": 0.05, "weight_decay": 0.1}),
    "from_optax": (from_optax, {"learning_rate": 0.05}),
}

every = pytest.mark.parametrize("rollout", quick_cases(ROLLOUTS))
alias = pytest.mark.parametrize("name", quick_cases(ALIASES, "adam"))


def make(name: str, rollout: str, *, dtype: Any = jnp.float32) -> tuple[zoo.Problem, Any]:
    problem = zoo.problem("tiny", batch=4, dtype=dtype)
    build, options = ALIASES[name]
    return problem, build(problem.net, LOSS, **options, rollout=rollout)


def step(tx: Any, batch: Any, params: Any, state: Any) -> tuple[Any, Any]:
    updates, state = tx.update(None, state, params, batch=batch)
    return optax.apply_updates(params, updates), state


def close(got: Any, want: Any, rtol: float = 1e-5) -> None:
    """Asserts that two trees have the same structure and dtypes, and close values."""
    chex.assert_trees_all_equal_dtypes(got, want)
    chex.assert_trees_all_close(got, want, rtol=rtol, atol=1e-6)


@every
@alias
def test_state_is_a_fixed_point_and_may_be_donated(name: str, rollout: str) -> None:
    """`lax.cond` accepts both states only if their structures, shapes and dtypes are equal."""
    problem, tx = make(name, rollout)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def choose(params: Any, state: Any, keep: jax.Array) -> tuple[Any, Any]:
        new, after = step(tx, (problem.x, problem.y), params, state)
        return new, jax.lax.cond(keep, lambda: state, lambda: after)

    start = tx.init(problem.params)
    shapes = jax.tree.map(lambda v: (v.shape, v.dtype), start)
    params, state = choose(jax.tree.map(jnp.copy, problem.params), start, False)
    assert jax.tree.map(lambda v: (v.shape, v.dtype), state) == shapes
    assert state.report.loss > 0
    params, again = choose(params, jax.tree.map(jnp.copy, state), True)
    close(again, state)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@every
@alias
def test_scan_and_vmap(name: str, rollout: str) -> None:
    """Three steps, vectorized over three seeds, equal those of each seed."""
    problem, tx = make(name, rollout)
    keys = jax.random.split(jax.random.key(1), 3)
    seeds = jax.tree.map(
        lambda leaf: jnp.stack([leaf * (1 + 0.1 * i) for i in range(len(keys))]), problem.params
    )
    batches = (
        jnp.stack([problem.x, 2 * problem.x, problem.x]),
        jnp.stack([problem.y, problem.y, -problem.y]),
    )

    def run(params: Any) -> Any:
        def body(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
            carry = step(tx, batch, *carry)
            return carry, carry[1].report.loss

        return jax.lax.scan(body, (params, tx.init(params)), batches)

    (params, state), losses = jax.jit(jax.vmap(run))(seeds)
    one = jax.jit(functools.partial(step, tx))
    for i in range(len(keys)):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], seeds)
        memory = tx.init(alone)
        for t in range(3):
            alone, memory = one((batches[0][t], batches[1][t]), alone, memory)
            np.testing.assert_allclose(losses[i, t], memory.report.loss, rtol=1e-5)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], (params, state)), (alone, memory), rtol=1e-4)


@every
@alias
def test_chain(name: str, rollout: str) -> None:
    """Regularizers come before the optimizer, nothing after it; `batch` passes through."""
    problem, tx = make(name, rollout)
    chain = optax.chain(optax.add_decayed_weights(0.5), tx)
    zeros = jax.tree.map(jnp.zeros_like, problem.params)

    @jax.jit
    def both(params: Any) -> tuple[Any, Any]:
        (got, _) = chain.update(zeros, chain.init(params), params, batch=(problem.x, problem.y))
        decay = jax.tree.map(lambda u: 0.5 * u, params)
        want, state = tx.update(decay, tx.init(params), params, batch=(problem.x, problem.y))
        plain, _ = tx.update(None, tx.init(params), params, batch=(problem.x, problem.y))
        return got, (want, plain, state.report.double_counted)

    got, (want, plain, double_counted) = both(problem.params)
    close(got, want)
    assert oracle.relative_error(plain, want) > 1e-2  # the regularizer contributes
    assert not double_counted


@every
@alias
def test_inject_hyperparams(name: str, rollout: str) -> None:
    problem, tx = make(name, rollout)
    build, options = ALIASES[name]
    injected: Any = optax.inject_hyperparams(build, static_args=("net", "loss"))(
        problem.net, LOSS, **options, rollout=rollout
    )

    @jax.jit
    def both(state: Any) -> tuple[Any, Any]:
        return (
            injected.update(None, state, problem.params, batch=(problem.x, problem.y))[0],
            tx.update(None, tx.init(problem.params), problem.params, batch=(problem.x, problem.y))[
                0
            ],
        )

    state = injected.init(problem.params)
    got, want = both(state)
    close(got, want, rtol=1e-4)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))
    state.hyperparams["learning_rate"] = 0 * state.hyperparams["learning_rate"]
    still, _ = both(state)
    assert not any(leaf.any() for leaf in jax.tree.leaves(still))


@every
@alias
def test_bfloat16(name: str, rollout: str) -> None:
    """Updates and statistics have the dtype of the parameters and are close to float32."""
    problem, tx = make(name, rollout, dtype=jnp.bfloat16)

    @jax.jit
    def both(params: Any, batch: Any) -> tuple[Any, Any]:
        low = tx.update(None, tx.init(params), params, batch=batch)
        params, batch = zoo.cast((params, batch), jnp.float32)
        return low, tx.update(None, tx.init(params), params, batch=batch)

    (updates, state), (_, want) = both(problem.params, (problem.x, problem.y))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(updates))
    got, want = state.report, want.report
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(
        jnp.result_type, tx.init(problem.params)
    )
    assert jax.tree.map(jnp.result_type, got) == jax.tree.map(jnp.result_type, want)
    assert got.sample_weight_max.dtype == jnp.float32 and not got.skipped
    np.testing.assert_allclose(got.loss, want.loss, rtol=0.02)
    for weight in ("sample_weight_min", "sample_weight_mean", "sample_weight_max"):
        np.testing.assert_allclose(getattr(got, weight), getattr(want, weight), atol=0.05)


@every
def test_bfloat16_activations_over_float32_parameters(rollout: str) -> None:
    """Mixed precision in Flax: `dtype=bfloat16` in the layers."""

    def net(dtype: Any) -> gt.Network:
        block = gt.Residual([zoo.conv(3, dtype=dtype), jnp.tanh], zoo.conv(3, (1, 1), dtype=dtype))
        return gt.Network([block, zoo.flatten, nn.Dense(3, dtype=dtype)])

    problem = zoo.make(zoo.Spec(lambda: list(net(None).layers), (4, 4, 2)), dtype=jnp.float32)
    params = problem.params
    steps = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        tx = gt.sgd(net(dtype), LOSS, 0.1, rollout=rollout)
        updates, state = jax.jit(tx.update)(
            None, tx.init(params), params, batch=(problem.x, problem.y)
        )
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(updates))
        assert state.report.sample_weight_max - state.report.sample_weight_min > 0.02
        steps[dtype] = updates
    assert 1e-5 < oracle.relative_error(steps[jnp.bfloat16], steps[jnp.float32]) < 0.05


def test_each_player_keeps_its_own_dtype() -> None:
    problem, tx = make("adam", "nonlinear")
    params = problem.params | {"Dense_1": zoo.cast(problem.params["Dense_1"], jnp.bfloat16)}
    updates, state = jax.jit(tx.update)(None, tx.init(params), params, batch=(problem.x, problem.y))
    assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, params)
    assert not state.report.skipped


def test_make_update_is_the_whole_step() -> None:
    problem, tx = make("adam", "linear")
    state = tx.init(problem.params)
    params, after = gt.make_update(tx)(problem.params, state, (problem.x, problem.y))
    want = jax.jit(functools.partial(step, tx))((problem.x, problem.y), problem.params, state)
    close((params, after), want, rtol=1e-4)
    jax.tree.map(jnp.copy, (problem.params, state))  # nothing was donated


def test_extra_arguments_are_swallowed() -> None:
    problem, tx = make("sgd", "linear")

    @jax.jit
    def both(params: Any) -> tuple[Any, Any]:
        state = tx.init(params)
        more = {"value": 1.0, "grad": None, "batch": (problem.x, problem.y)}
        return (
            tx.update(None, state, params, batch=(problem.x, problem.y))[0],
            tx.update(None, state, params, **more)[0],
        )

    close(*both(problem.params))
