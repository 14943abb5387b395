"""The joint game on many devices takes the step of one device."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from tests.conftest import RunPython
from tests.joint.problems import PARAMS
from tests.robustness.devices.joint_script import BATCH, CASES, SQUARED
from tests.sequential.devices_script import step_of


@pytest.mark.parametrize("name", CASES)
def test_what_is_equal_on_all_devices_is_known_to_be(name: str) -> None:
    """On one device types are those of many; results are compared by the slow test below."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    tx = CASES[name]("data")
    specs: Any = {"in_specs": (P(), P(), P("data")), "out_specs": P()}
    step = jax.shard_map(step_of(tx), mesh=mesh, **specs)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    new_params, new_state = jax.eval_shape(step, params, state, BATCH)
    for old, new in ((params, new_params), (state, new_state)):
        old_types, new_types = (
            [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (old, new)
        )
        assert old_types == new_types


def test_a_mesh_of_type_explicit() -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    params = jax.tree.map(jnp.asarray, PARAMS)
    terms: Any = gt.joint(SQUARED)
    bare: Any = gt.joint()
    with jax.set_mesh(mesh):
        batch = jax.device_put({name: BATCH[name] for name in SQUARED}, P("data"))
        state = terms.init(params)
        step, after = jax.eval_shape(terms.update, None, state, params, batch=batch)
        assert {jax.typeof(leaf).sharding.spec for leaf in jax.tree.leaves((step, after))} <= {
            P(),
            P(None),
            P(None, None),
        }
        with pytest.raises(ValueError, match="a function of losses closes over its batch"):
            bare.update(None, bare.init(params), params, losses=lambda params: batch)


@pytest.mark.slow
def test_four_devices_equal_one(run_python: RunPython) -> None:
    script = "tests.robustness.devices.joint_script"
    result = run_python("-W", "error", "-m", script, devices=4, timeout=600)
    assert result.returncode == 0, result.stderr
    ways = ("pmap", "shard_map", "sharded_jit")
    want = [f"{way}, {case}: equal" for way in ways for case in CASES]
    assert sorted(result.stdout.splitlines()) == sorted([*want, "explicit, dual: equal"])
