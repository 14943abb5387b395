"""With feedback off, a model trains exactly as under optax, statistics and random keys included."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gtddp_jax as gt
from gtddp_jax.reference.verify import log_cosh
from tests.flax_models import zoo

Tree = Any
STEPS = 10


def flax_loss(p: zoo.Problem, params: Tree, stats: Tree, rngs: Any) -> tuple[jax.Array, Tree]:
    """The mean loss and the next state, computed by Flax alone."""
    if isinstance(p.model, nn.Module):
        args = p.inputs if isinstance(p.inputs, tuple) else (p.inputs,)
        outputs, after = p.model.apply(
            {"params": params, "batch_stats": stats},
            *args,
            rngs=rngs,
            mutable=["batch_stats"],
            **p.spec.options.get("apply_kwargs", {}),
        )
        return log_cosh(outputs).mean(), after.get("batch_stats", stats)
    graph, *templates = nnx.split(p.model, nnx.Param, ...)
    variables = (
        jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))
        for like, tree in zip(templates, (params, stats), strict=True)
    )
    model = nnx.merge(graph, *variables)
    value = log_cosh(model(p.inputs)).mean()
    after = jax.tree.leaves(nnx.state(model, nnx.Not(nnx.Param)))
    return value, jax.tree.unflatten(jax.tree.structure(stats), after)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_ten_steps_equal_optax(name: str) -> None:
    p = zoo.problem(name, batch=2)
    base = optax.adam(0.01)
    tx: Any = gt.adam(p.net, log_cosh, 0.01, equilibrium="open_loop", batch_stats=p.batch_stats)
    batch = (p.inputs, None)

    @jax.jit
    def game_step(params: Tree, state: Any, rngs: Any) -> tuple[Tree, Any]:
        step, state = tx.update(None, state, params, batch=batch, rngs=rngs)
        return optax.apply_updates(params, step), state

    @jax.jit
    def optax_step(params: Tree, state: Any, stats: Tree, rngs: Any) -> tuple[Tree, Any, Tree]:
        gradient_fn = jax.grad(lambda u: flax_loss(p, u, stats, rngs), has_aux=True)
        gradient, new_stats = gradient_fn(params)
        step, state = base.update(gradient, state, params)
        return optax.apply_updates(params, step), state, new_stats

    got, state = p.params, tx.init(p.params)
    want, base_state, stats = p.params, base.init(p.params), p.batch_stats
    for i in range(STEPS):
        rngs = {"dropout": jax.random.key(i)} if p.rngs else None
        got, state = game_step(got, state, rngs)
        want, base_state, stats = optax_step(want, base_state, stats, rngs)
    assert not state.report.skipped
    pairs = zip(
        jax.tree.leaves((got, state.batch_stats)), jax.tree.leaves((want, stats)), strict=True
    )
    for a, b in pairs:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), got, p.params)
    assert min(map(float, jax.tree.leaves(moved))) > 0 or name == "einsum"
