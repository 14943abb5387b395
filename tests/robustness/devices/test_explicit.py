"""Steps on meshes with axes of type Explicit equal those of one device without a mesh."""

from typing import Any

import jax
import optax
import pytest
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from tests.conftest import RunPython
from tests.robustness.devices.explicit_script import (
    CASES,
    X,
    explicit_mesh_of,
    network,
    spread,
    step_of,
)

LOSS = optax.softmax_cross_entropy_with_integer_labels


@pytest.mark.parametrize("name", CASES)
def test_types_of_arrays(name: str) -> None:
    """On one device types are those of many, and JAX refuses the same operations in tracing."""
    mesh = explicit_mesh_of(data=1, model=1)
    with jax.set_mesh(mesh):
        case = CASES[name]()
        params, batch = spread(case, mesh)
        state = case[0].init(params)
        new_params, new_state, _ = jax.eval_shape(step_of(case), params, state, batch)
    types = [
        jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, tree)
        for tree in ((params, state), (new_params, new_state))
    ]
    assert types[0] == types[1]
    assert P(None, "model") in jax.tree.leaves(types[0])


@pytest.mark.parametrize("name", ["full", "sgd"])
def test_the_arrays_alone_name_the_mesh(name: str) -> None:
    """Under jit, `jax.set_mesh` is not needed."""
    case = CASES[name]()
    params, batch = spread(case, explicit_mesh_of(data=1))
    state = case[0].init(params)
    new_params, _, (weights,) = jax.eval_shape(jax.jit(step_of(case)), params, state, batch)
    assert {jax.typeof(leaf).sharding.spec for leaf in jax.tree.leaves(new_params)} <= {
        P(),
        P(None),
        P(None, None),
        P(None, None, None),
    }
    assert weights.shape[-1] == len(X)


def test_a_function_of_losses_is_refused_in_the_sequential_game() -> None:
    """Its batch cannot be moved to another mode."""
    _, params, batch = CASES["sgd"]()
    bare: Any = gt.sgd(network(), None, 0.1)
    with jax.set_mesh(explicit_mesh_of(data=1)):
        state = bare.init(params)
        with pytest.raises(ValueError, match="a function of losses closes over its batch"):
            bare.update(None, state, params, losses=lambda params: batch)


def test_a_rate_in_a_closure_is_refused() -> None:
    """A function of optax that closes over an array cannot be moved to another mode."""
    net = network()

    def game(rate: Any) -> Any:
        return gt.gtddp(net, LOSS, gt.curvature.FromOptax(optax.sgd(rate)))

    case = (optax.inject_hyperparams(game)(rate=0.1), net.init(jax.random.key(0), X), {})
    mesh = explicit_mesh_of(data=1)
    with jax.set_mesh(mesh):
        params, batch = spread(case, mesh)
        state = case[0].init(params)
        with pytest.raises(ValueError, match="closes over an array that belongs to a mesh"):
            jax.eval_shape(step_of(case), params, state, batch)


@pytest.mark.slow
def test_four_devices_equal_one(run_python: RunPython) -> None:
    script = "tests.robustness.devices.explicit_script"
    result = run_python("-W", "error", "-m", script, devices=4, timeout=400)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == [name.split(",")[0] for name in CASES]
    assert all(line.endswith(": equal") for line in lines), lines
