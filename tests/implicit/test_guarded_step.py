"""The check of a step, and the base's state after it, with few passes over the parameters."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core.jaxprs import is_elementwise
from gtddp_jax.core.optax_base import as_optax_base
from gtddp_jax.core.report import is_duplicate_gradient
from gtddp_jax.core.safety import guarded_vdot
from gtddp_jax.core.trees import tree_vdot
from gtddp_jax.core.xla import PACKED_SIZE, materialize
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from tests.implicit import models

Tree = Any
ELEMENTWISE = {
    "sgd": (optax.sgd(0.1, momentum=0.9), True),
    "adamw": (optax.adamw(0.1), True),
    "lion": (optax.lion(0.1), True),
    "global norm": (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), False),
    "muon": (optax.contrib.muon(0.1), False),
    "MultiSteps": (optax.MultiSteps(optax.adam(0.1), 3), False),
}


def base_optimizer(base: Any, params: Tree) -> BaseOptimizer:
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = as_optax_base("test", base)
    return BaseOptimizer(tx, tx.init(params), params, zeros, jnp.zeros(()), {}, True)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_state_after_a_step(name: str) -> None:
    """The base's next state if the step is taken, else the old one, however it is computed."""
    base, alone = ELEMENTWISE[name]
    params = models.mlp_params()
    q = jax.tree.map(lambda u: jnp.cos(jnp.arange(u.size, dtype=u.dtype)).reshape(u.shape), params)
    optimizer = base_optimizer(base, params)
    assert is_elementwise(lambda q: optimizer.compute_update(q)[1], q) == alone

    @jax.jit
    def after(ok: jax.Array) -> tuple[Any, Any]:
        return optimizer.state_after(ok, q), optimizer.compute_update(q)[1]

    taken, want = after(jnp.array(True))
    left, _ = after(jnp.array(False))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-14), taken, want)
    jax.tree.map(np.testing.assert_array_equal, left, optimizer.state)


def test_effects_are_not_repeated() -> None:
    def loud(q: jax.Array) -> jax.Array:
        jax.debug.print("{}", q)
        return q

    assert is_elementwise(jax.jit(lambda q: 2 * q), jnp.ones(2))
    assert not is_elementwise(loud, jnp.ones(2))
    assert not is_elementwise(jax.jit(lambda q: q / q.sum()), jnp.ones(2))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_a_product_with_a_guard(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = {"large": (PACKED_SIZE // 8, 10), "small": (3, 2), "scalar": ()}

    def tree() -> Tree:
        return {name: jnp.asarray(rng.normal(size=s), dtype) for name, s in sizes.items()}

    a, b, guard = tree(), tree(), tree()
    got = guarded_vdot(a, b, guard)
    assert got.dtype == jnp.promote_types(dtype, jnp.float32)
    np.testing.assert_allclose(got, tree_vdot(a, b), rtol=1e-5 if dtype != jnp.float64 else 1e-12)
    too_much = float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).max) ** 0.5 * 2
    for name in sizes:
        for bad in (jnp.nan, jnp.inf, -too_much):
            spoiled = guard | {name: guard[name].at[(0,) * guard[name].ndim].set(bad)}
            assert not jnp.isfinite(guarded_vdot(a, b, spoiled)), (name, bad)


def test_a_guard_is_squared_in_float32() -> None:
    """The square of 300 overflows float16, in which no optimizer would store it."""
    one, guard = jnp.ones(3, jnp.float16), jnp.full(3, 300, jnp.float16)
    assert guarded_vdot(one, one, guard) == 3


@pytest.mark.parametrize(("difference", "expected"), [(0.005, True), (0.015, False)])
def test_a_gradient_is_a_duplicate_within_a_hundredth(difference: float, expected: bool) -> None:
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    assert bool(is_duplicate_gradient(gradient, (1 + difference) * gradient)) == expected
    assert not is_duplicate_gradient(0 * gradient, 0 * gradient)


@pytest.mark.parametrize(("size", "decides"), [(7, False), (8, True)])
def test_the_smallest_array_of_eight_numbers_decides(size: int, decides: bool) -> None:
    """Fewer numbers may agree by chance. Here the small array agrees and the large one does not."""
    gradient = {"small": jnp.arange(1.0, 1 + size), "large": jnp.ones(12)}
    running = gradient | {"large": 2 * gradient["large"]}
    assert bool(is_duplicate_gradient(gradient, running)) == decides


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_arrays_that_ride_along(dtype: Any) -> None:
    """One number that is not finite spoils the product, wherever it stands; others do nothing."""
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (3, 2), (PACKED_SIZE // 8, 10), (4,), ()]

    def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
        return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]

    a, b, guard = arrays(*shapes), arrays(*shapes), arrays(*shapes)
    # Three for two seats, one for each other shape but one, and a shape without a seat.
    riders = [*arrays((3, 2), (3, 2), (3, 2), (PACKED_SIZE // 8, 10), (), (7,)), jnp.arange(4)]
    want = guarded_vdot(a, b, guard)
    assert jnp.isfinite(want)
    np.testing.assert_array_equal(guarded_vdot(a, b, guard, riders), want)
    for place, rider in enumerate(riders[:-1]):
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            spoiled = [*riders]
            spoiled[place] = rider.at[(-1,) * rider.ndim].set(bad)
            assert not jnp.isfinite(guarded_vdot(a, b, guard, spoiled)), (place, bad)


def test_finished_numbers_are_the_same() -> None:
    x = jnp.array([0.0, -0.0, 1.5, jnp.inf, -jnp.inf, jnp.nan])
    for dtype in (jnp.float64, jnp.bfloat16):
        tree: Any = materialize({"x": x.astype(dtype)})
        got = tree["x"]
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.astype(float), x)  # all of them are exact in either


@pytest.mark.slow
def test_layers_take_turns_at_laying_out_patches(float32: None) -> None:
    """A further layer costs the memory of what it keeps, not of its nine times larger patches."""

    def pool(x: jax.Array) -> jax.Array:
        return x.mean((1, 2))

    def temporary(blocks: int) -> int:
        layers: list[Any] = [nn.Conv(8, (3, 3))]
        for _ in range(blocks):
            layers += [gt.Residual([nn.Conv(8, (3, 3))]), nn.relu]
        layers += [pool, nn.Dense(3)]
        net, x, y = gt.Network(layers), jnp.ones((32, 10, 10, 1)), jnp.zeros(32, int)
        params = net.init(jax.random.key(0), x[:1])
        loss = optax.softmax_cross_entropy_with_integer_labels
        tx: Any = gt.implicit(optax.sgd(0.1), net, loss, weighting="product")
        step = jax.jit(lambda p, s: tx.update(None, s, p, batch=(x, y)))
        plan: Any = step.lower(params, tx.init(params)).compile().memory_analysis()
        return plan.temp_size_in_bytes

    patches = 32 * 10 * 10 * 9 * 8 * 4
    assert temporary(2) - temporary(1) < patches
