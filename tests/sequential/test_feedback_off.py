"""Propositions 1 and 4: without feedback, GT-DDP is the base optimizer."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.sequential import zoo

STEPS = 20
LOSS = zoo.LOSSES["softmax"]


def schedule(count: Any) -> Any:
    return 0.1 / (1.0 + count)


def kernels(params: Any) -> Any:
    """A mask for weight decay that excludes biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def wraps(base: optax.GradientTransformation) -> Callable[..., Any]:
    curvature = gt.curvature.FromOptax(base)
    return lambda net, loss, **game: gt.gtddp(net, loss, curvature, **game)


def same(ours: Any, theirs: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
    """An alias of the library and the optax optimizer of the same name, with the same arguments."""
    return lambda n, loss, **g: ours(n, loss, *args, **options, **g), theirs(*args, **options)


PAIRS: dict[str, tuple[Callable[..., Any], Any]] = {
    "sgd": same(gt.sgd, optax.sgd, 0.1),
    "momentum": same(gt.sgd, optax.sgd, 0.05, 0.9),
    "nesterov": same(gt.sgd, optax.sgd, 0.05, 0.9, True),
    "sgd_schedule": same(gt.sgd, optax.sgd, schedule, 0.9),
    "rmsprop": same(gt.rmsprop, optax.rmsprop, 0.01),
    "rmsprop_eps": same(gt.rmsprop, optax.rmsprop, 0.01, 0.95, 1e-3, eps_in_sqrt=False),
    "rmsprop_bias_correction": same(gt.rmsprop, optax.rmsprop, 0.01, bias_correction=True),
    "rmsprop_momentum": same(
        gt.rmsprop, optax.rmsprop, schedule, initial_scale=1.0, momentum=0.9, nesterov=True
    ),
    "adam": same(gt.adam, optax.adam, 0.01),
    "adam_eps": same(gt.adam, optax.adam, schedule, 0.8, 0.9, 1e-3, 1e-4),
    "nadam": same(gt.adam, optax.adam, 0.01, nesterov=True),
    "adamw": same(gt.adamw, optax.adamw, 0.01),
    "adamw_mask": same(gt.adamw, optax.adamw, schedule, weight_decay=0.5, mask=kernels),
    "from_optax": (wraps(optax.lion(0.003)), optax.lion(0.003)),
}


def mean_loss(net: gt.Network, params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    return LOSS(net.apply(params, batch[0]), batch[1]).mean()


def ours(problem: zoo.Problem, build: Callable[..., Any]) -> Any:
    tx = build(problem.net, LOSS, equilibrium="open_loop")

    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = tx.update(None, state, params, batch=batch)
        return (optax.apply_updates(params, updates), state), None

    return step, (problem.params, tx.init(problem.params))


def theirs(problem: zoo.Problem, tx: optax.GradientTransformation) -> Any:
    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        grads = jax.grad(functools.partial(mean_loss, problem.net))(params, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return step, (problem.params, tx.init(problem.params))


def batches(problem: zoo.Problem) -> Any:
    """A different batch for each step."""
    scale = jnp.linspace(0.5, 1.5, STEPS, dtype=problem.x.dtype)
    return tuple(scale.reshape((-1,) + (1,) * v.ndim) * v[None] for v in (problem.x, problem.y))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float64, 1e-12), (jnp.float32, 1e-6)])
def test_twenty_steps(dtype: Any, bound: float) -> None:
    """The network has convolutions, a parametric shortcut and a dense head."""
    problem = zoo.problem("conv_small", batch=4, dtype=dtype)

    @jax.jit
    def run() -> Any:
        out = {}
        for name, pair in PAIRS.items():
            loops = [ours(problem, pair[0]), theirs(problem, pair[1])]
            out[name] = [jax.lax.scan(step, carry, batches(problem))[0][0] for step, carry in loops]
        return out

    for name, (got, want) in run().items():
        for a, b, start in zip(*map(jax.tree.leaves, (got, want, problem.params)), strict=True):
            assert a.dtype == b.dtype == dtype
            size = np.abs(b).max()
            assert np.abs(a - b).max() < bound * size, name
            assert np.abs(b - start).max() > 1e-3 * size, name


@pytest.mark.slow
def test_bit_for_bit() -> None:
    """One sample and no fusion: neither sums nor the compiler can reorder operations."""
    problem = zoo.problem("square", batch=1, dtype=jnp.float32)
    for name, pair in PAIRS.items():
        (mine, got), (base, want) = ours(problem, pair[0]), theirs(problem, pair[1])
        for i in range(3):
            batch = (problem.x * (1 + i), problem.y)
            (got, _), (want, _) = mine(got, batch), base(want, batch)
        jax.tree.map(
            functools.partial(np.testing.assert_array_equal, err_msg=name), got[0], want[0]
        )


def test_weights_are_one() -> None:
    problem = zoo.problem("small")
    tx = gt.adam(problem.net, LOSS, 0.01, equilibrium="open_loop", rollout="nonlinear")
    _, state = jax.jit(tx.update)(
        None, tx.init(problem.params), problem.params, batch=(problem.x, problem.y)
    )
    report = state.report
    assert report.sample_weight_min == report.sample_weight_max == report.sample_weight_mean == 1
    assert not report.sample_weight_std.any() and not report.feedback_ratio.any()
