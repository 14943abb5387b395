"""The contract of every entry of `CURVATURES`, without regard to its mathematics."""

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
from gtddp_jax.network.protocol import StageIndex
from tests.curvature.kronecker import joint
from tests.default_run import quick_cases

ARGUMENTS: dict[str, Any] = {"from_optax": optax.adam(0.1)}
"""First arguments where a learning rate will not do."""


def make_curvature(name: str) -> gt.curvature.Curvature:
    return gt.curvature.CURVATURES[name](ARGUMENTS.get(name, 0.1))


@pytest.mark.parametrize("name", quick_cases(gt.curvature.CURVATURES))
def test_policy_keeps_the_contract(name: str) -> None:
    curvature, table = make_curvature(name), joint.TABLES["pair"]()

    @jax.jit
    def two_steps(data: joint.Data, keep: jax.Array) -> dict[str, Any]:
        first = joint.policy(curvature, table, data)
        gradient = joint.stage_inputs(table, data).gradient
        second = joint.policy(curvature, table, data, first.state)
        return {
            "gain": first.open_gain,
            "state": first.state,
            "forms": first.quadratic_form(),
            "unchanged": first.closed_loop_step(gradient, gradient),
            "next gain": second.open_gain,
            # Compiles only if the structure, shapes and dtypes of the state are a fixed point.
            "kept": jax.lax.cond(keep, lambda: first.state, lambda: second.state),
        }

    result = two_steps(table.data, jnp.asarray(True))
    chex.assert_trees_all_equal_shapes_and_dtypes(result["gain"], table.params)
    step, state = result["unchanged"]
    chex.assert_trees_all_close(step, result["gain"], rtol=1e-12)
    chex.assert_trees_all_close(state, result["state"], rtol=1e-12)
    chex.assert_trees_all_equal(result["kept"], result["state"])
    assert result["forms"].shape == table.data.alpha.shape
    assert np.all(result["forms"] >= 0)
    # SOAP moves nothing in its first step.
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(result["next gain"]))


@pytest.mark.parametrize("name", gt.curvature.CURVATURES)
def test_description_has_a_cell_for_each_player(name: str) -> None:
    table = joint.TABLES["pair"]()
    cells = make_curvature(name).describe(table.params, StageIndex(table.stage, 0, 1))
    assert list(cells) == list(table.stage.players)
    assert all(cells.values())


@pytest.mark.parametrize("name", quick_cases(gt.curvature.CURVATURES))
def test_a_state_may_be_donated(name: str) -> None:
    """Buffers of a state are not aliased."""
    net = gt.Network([nn.Dense(3)])
    x, targets = jnp.ones((2, 4)), jnp.zeros((2, 3))
    params = net.init(jax.random.key(0), x)
    tx: Any = gt.gtddp(net, lambda o, y: jnp.square(o - y).sum(-1), make_curvature(name))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        return tx.update(None, state, params, batch=(x, targets))[1]

    assert not step(tx.init(params)).report.skipped
