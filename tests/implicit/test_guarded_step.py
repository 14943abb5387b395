"""A step of the base is taken as it is, or leaves everything as it was."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gtddp_jax.core.optax_base import as_optax_base
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.guarded_step import GuardedStep, take_guarded_step
from tests.implicit import models
from tests.implicit.models import implicit

Tree = Any


def waves(frequency: float) -> Tree:
    """A tree like the parameters, in which no number is zero."""
    return jax.tree.map(lambda leaf: jnp.cos(frequency * leaf + 0.1), models.mlp_params())


def compiled_apart() -> optax.GradientTransformation:
    adam = optax.adam(0.1)
    return optax.GradientTransformation(adam.init, jax.jit(adam.update))


def that_keeps_the_gradient() -> optax.GradientTransformation:
    """Its next state is no value that it computes."""

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        del params
        return jax.tree.map(lambda new, last: -0.1 * new - 0.05 * last, updates, state), updates

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def that_calls(function: Callable[[], None]) -> optax.GradientTransformation:
    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        jax.debug.callback(function)
        return optax.sgd(0.1, momentum=0.9).update(updates, state, params)

    return optax.GradientTransformation(optax.sgd(0.1, momentum=0.9).init, update)


BASES: dict[str, Callable[[], Any]] = {
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(0.1),
    "lion": lambda: optax.lion(0.1),
    "global norm": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    "muon": lambda: optax.contrib.muon(0.1),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 3),
    "MultiSteps, due": lambda: optax.MultiSteps(optax.adam(0.1), 2),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(optax.linear_schedule(0.1, 0, 9)),
    "compiled apart": compiled_apart,
    "gradient": that_keeps_the_gradient,
    "callback": lambda: that_calls(lambda: None),
}


def after_one_step(base: Any) -> BaseOptimizer:
    """The base with a state in which nothing is zero."""
    checked, params = as_optax_base("implicit", base), models.mlp_params()
    _, state = checked.compute_update(waves(5), checked.init(params), params, {})
    return BaseOptimizer(checked, state, params, waves(3), jnp.ones(()), {}, True)


@pytest.mark.parametrize("name", BASES)
def test_a_step_is_taken_or_not(name: str) -> None:
    optimizer = after_one_step(BASES[name]())

    @jax.jit
    def both(ok: jax.Array) -> tuple[GuardedStep, Any]:
        return take_guarded_step(optimizer, waves(7), ok), optimizer.compute_update(waves(7))

    taken, want = both(jnp.array(True))
    assert taken.ok
    # Muon rounds its products by the program around them.
    chex.assert_trees_all_close((taken.update, taken.state), want, rtol=1e-13)
    chex.assert_trees_all_equal_dtypes((taken.update, taken.state), want)
    left, _ = both(jnp.array(False))
    assert not left.ok and not any(leaf.any() for leaf in jax.tree.leaves(left.update))
    chex.assert_trees_all_equal(left.state, optimizer.state)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_rate_that_is_not_finite_skips_the_step(bad: float) -> None:
    """The gradient is finite; the count of the schedule stays, too."""
    optimizer = after_one_step(optax.adam(lambda count: jnp.where(count == 1, bad, 0.1)))
    step = jax.jit(lambda: take_guarded_step(optimizer, waves(7), jnp.array(True)))()
    assert not step.ok and not any(leaf.any() for leaf in jax.tree.leaves(step.update))
    chex.assert_trees_all_equal(step.state, optimizer.state)


def test_the_game_reports_a_rate_that_is_not_finite() -> None:
    p = models.classification()
    rates = optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9)
    tx = implicit(rates, p.apply_fn, p.loss)

    @jax.jit
    def step(state: Any) -> Any:
        return tx.update(None, state, p.params, batch=(p.x, p.y))

    _, state = step(tx.init(p.params))
    assert not state.report.skipped
    state.base.hyperparams["learning_rate"] = jnp.asarray(jnp.nan)
    updates, after = step(state)
    assert after.report.skipped and after.report.skipped_steps == 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    chex.assert_trees_all_equal(after.base, state.base)
    after.base.hyperparams["learning_rate"] = jnp.asarray(0.1)
    assert not step(after)[1].report.skipped


@pytest.mark.parametrize("ok", [True, False])
def test_effects_run_once(ok: bool) -> None:
    calls: list[int] = []
    optimizer = after_one_step(that_calls(lambda: calls.append(1)))
    jax.effects_barrier()
    calls.clear()
    jax.block_until_ready(jax.jit(lambda ok: take_guarded_step(optimizer, waves(7), ok))(ok))
    jax.effects_barrier()
    assert len(calls) == 1


def test_a_state_in_other_dtypes_keeps_them() -> None:
    """Parameters in bfloat16, first moments in float32."""
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), models.mlp_params())
    checked = as_optax_base("implicit", optax.adam(0.1, mu_dtype=jnp.float32))
    state = checked.init(low)
    optimizer = BaseOptimizer(
        checked, state, low, jax.tree.map(jnp.zeros_like, low), jnp.ones(()), {}, True
    )
    q = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), waves(7))
    for ok in (True, False):
        step = jax.jit(lambda ok: take_guarded_step(optimizer, q, ok))(jnp.array(ok))
        chex.assert_trees_all_equal_dtypes(step.state, state)
        assert np.any(step.state[0].mu["out"]["w"]) == ok
