"""SOAP's arguments, its description, and the ways to give it a model."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from tests.sequential import zoo

LOSS = zoo.LOSSES["squared"]
MESSAGES = {
    "learning_rate": (-1.0, "give a number >= 0 or an optax schedule"),
    "b1": (1.0, r"curvature\.SOAP\(b1=1\.0\): give a number in \[0, 1\)"),
    "b2": ("x", r"b2='x'\): give a number in \[0, 1\)"),
    "shampoo_beta": (-1, r"shampoo_beta=-1\): give a number in \[0, 1\)"),
    "eps": (0.0, r"eps=0\.0\): give a number > 0"),
    "weight_decay": (-0.1, r"weight_decay=-0\.1\): give a number >= 0"),
    "precondition_frequency": (0, r"precondition_frequency=0\): give an int >= 1"),
    "max_precond_dim": (2.5, r"max_precond_dim=2\.5\): give an int >= 1"),
    "statistics": ("half", r"supported are \('closed', 'open'\)"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_wrong_values_are_named(name: str) -> None:
    value, message = MESSAGES[name]
    options: dict[str, Any] = {"learning_rate": 0.1, name: value}
    with pytest.raises(ValueError, match=message):
        gt.curvature.SOAP(**options)


def test_description_has_the_sizes_of_the_bases() -> None:
    net = gt.Network([zoo.conv(2, (2, 1)), nn.LayerNorm(), zoo.flatten, nn.Dense(3)])
    x = jnp.ones((5, 2, 2, 4))
    params = net.init(jax.random.key(0), x)
    text = gt.explain(net, params, x, gt.curvature.SOAP(0.1, max_precond_dim=7))
    conv, norm, dense = (
        next(line for line in text.splitlines() if name in line)
        for name in ("Conv_0", "LayerNorm_0", "Dense_0")
    )
    assert conv.endswith("SOAP, bases 2 x 1 x 4 x 2")
    assert norm.endswith("SOAP, no bases (Adam)")
    assert dense.endswith("SOAP, bases 3")


class Model(nn.Module):
    """`zoo.NETS["feedforward"]` as one module."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.tanh(nn.Dense(4)(x))
        x = nn.softplus(nn.Dense(5)(x))
        x = jnp.tanh(nn.Dense(4)(x))
        return nn.Dense(3)(x)


@pytest.mark.slow
def test_an_existing_model_takes_the_steps_of_its_stage_list() -> None:
    p = zoo.problem("feedforward", batch=7)
    net = gt.from_flax(Model(), p.x)
    options: dict[str, Any] = {"eps": 0.1, "precondition_frequency": 1}
    players = gt.soap(p.net, LOSS, 0.05, **options)
    model = gt.soap(net, LOSS, 0.05, **options)

    @jax.jit
    def run() -> tuple[Any, Any]:
        def two_steps(tx: Any) -> Any:
            _, state = tx.update(None, tx.init(p.params), p.params, batch=(p.x, p.y))
            return tx.update(None, state, p.params, batch=(p.x[::-1], p.y))[0]

        return two_steps(players), two_steps(model)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), *run())


@pytest.mark.slow
def test_low_precision_keeps_its_state_in_float32() -> None:
    p = zoo.problem("tiny", batch=4, dtype=jnp.bfloat16)
    tx: Any = gt.soap(p.net, LOSS, 0.05, precondition_frequency=1)
    params, state = p.params, tx.init(p.params)
    update = jax.jit(lambda state, params: tx.update(None, state, params, batch=(p.x, p.y)))
    updates = params
    for _ in range(3):
        updates, state = update(state, params)
        assert not state.report.skipped
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
        params = jax.tree.map(jnp.add, params, updates)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state.curvature) if leaf.ndim}
    assert kinds == {jnp.dtype(jnp.float32)}
    assert any(leaf.any() for leaf in jax.tree.leaves(updates))
