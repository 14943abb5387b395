"""Degenerate statistics, small batches, low precision, transformations."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.sequential import zoo

Tree = Any
LOSS = zoo.LOSSES["squared"]
METHODS = {
    "kfac": functools.partial(gt.curvature.KFAC, 0.1),
    "factored": functools.partial(gt.curvature.KFAC, 0.1, damping_form="factored"),
    "ekfac": functools.partial(gt.curvature.EKFAC, 0.1),
    "per_example": functools.partial(gt.curvature.EKFAC, 0.1, mode="per_example"),
}
MODES = {"kfac": "joint", "factored": "theorem3", "ekfac": "rescale", "per_example": "none"}


def games(p: zoo.Problem, loss: Any = LOSS, **options: Any) -> dict[str, Any]:
    return {
        name: gt.gtddp(p.net, loss, make(cooperative=MODES[name], **options))
        for name, make in METHODS.items()
    }


def steps(p: zoo.Problem, tables: dict[str, Any], count: int = 2) -> dict[str, Any]:
    """The parameters and states after some steps of every game, compiled together."""

    @jax.jit
    def step(now: Any) -> Any:
        found = {}
        for name, (params, state) in now.items():
            updates, state = tables[name].update(None, state, params, batch=(p.x, p.y))
            found[name] = optax.apply_updates(params, updates), state
        return found

    now = {name: (p.params, tx.init(p.params)) for name, tx in tables.items()}
    for _ in range(count):
        now = step(now)
    return now


def finite(tree: Tree) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one sample", "no input", "no gradient", "little damping"])
def test_degenerate_batches_leave_finite_numbers(case: str) -> None:
    p = zoo.problem("tiny", batch=1 if case == "one sample" else 3, dtype=jnp.float32)
    if case == "no input":
        p = p._replace(x=jnp.zeros_like(p.x), params=jax.tree.map(jnp.zeros_like, p.params))
    flat = case == "no gradient"
    loss = (lambda outputs, y: 0 * LOSS(outputs, y)) if flat else LOSS
    damping = 1e-8 if case == "little damping" else 1e-2
    for name, (params, state) in steps(p, games(p, loss, damping=damping)).items():
        assert not state.report.skipped, name
        assert finite((params, state)), name
        if flat:
            jax.tree.map(np.testing.assert_array_equal, params, p.params)


@pytest.mark.slow
def test_statistics_are_wide_under_bfloat16() -> None:
    p = zoo.problem("tiny", batch=3, dtype=jnp.bfloat16)
    for name, (params, state) in steps(p, games(p)).items():
        kinds = {leaf.dtype for leaf in jax.tree.leaves(params)}
        assert kinds == {jnp.dtype(jnp.bfloat16)}, name
        factor = state.curvature[0].factors.players["Dense_0"].input_factor.weighted_sum
        assert factor.dtype == jnp.float32, name
        assert finite(params), name


@pytest.mark.slow
def test_a_batch_that_is_not_finite_changes_nothing() -> None:
    p = zoo.problem("tiny", batch=3)
    tables = games(p)
    now = steps(p, tables, 1)
    bad = (p.x.at[0, 0].set(jnp.nan), p.y)

    @jax.jit
    def step(now: Any) -> Any:
        return {n: tables[n].update(None, s, u, batch=bad) for n, (u, s) in now.items()}

    for name, (updates, state) in step(now).items():
        assert state.report.skipped, name
        assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
        jax.tree.map(np.testing.assert_array_equal, state.curvature, now[name][1].curvature)


@pytest.mark.slow
def test_states_have_one_shape_under_scan_and_vmap() -> None:
    p = zoo.problem("tiny", batch=3)
    tx: Any = gt.ekfac(p.net, LOSS, 0.1, momentum=0.9, refresh_every=2, factors_every=2)

    def one(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(None, state, params, batch=(p.x, p.y))
        return (optax.apply_updates(params, updates), state), state.report.loss

    def run(params: Tree) -> Any:
        return jax.lax.scan(one, (params, tx.init(params)), None, length=3)

    (params, state), losses = jax.jit(run)(p.params)
    assert losses[-1] < losses[0] and state.curvature[0].step_count == 3
    stacked = jax.tree.map(lambda v: jnp.stack([v, v]), p.params)
    (many, _), _ = jax.jit(jax.vmap(run))(stacked)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6, atol=1e-9), many, params
    )


def eigenvectors(state: Any) -> list[jax.Array]:
    """Those of the input factors of all players, stage by stage."""
    stages = [stage.factors.players for stage in state.curvature]
    return [player.row_basis.vectors for players in stages for player in players.values()]


def test_stages_take_turns_at_new_bases() -> None:
    p = zoo.problem("feedforward", batch=3)
    tx: Any = gt.kfac(p.net, LOSS, 0.01, refresh_every=8, factors_every=1, equilibrium="open_loop")
    step = jax.jit(lambda s, u, x: tx.update(None, s, u, batch=(x, p.y)))
    state, turns = tx.init(p.params), []
    for count in range(12):
        before = eigenvectors(state)
        _, state = step(state, p.params, p.x * (1 + 0.1 * count) + 0.01 * count)
        after = eigenvectors(state)
        turns.append([bool((a != b).any()) for a, b in zip(after, before, strict=True)])
    assert turns[0] == [True] * 4
    changed = np.array(turns[1:])
    assert [list(np.flatnonzero(changed[:, stage]) + 1) for stage in range(4)] == [
        [8],
        [1, 9],
        [2, 10],
        [3, 11],
    ]


def test_negative_eigenvalues_are_counted_and_set_to_zero() -> None:
    from gtddp_jax.curvature.kronecker.eigenbases import compute_eigenbasis
    from gtddp_jax.curvature.kronecker.running_factors import RunningAverage

    factor = jnp.diag(jnp.asarray([2.0, -1e-3, 1.0]))[None]
    basis = compute_eigenbasis(RunningAverage(factor, jnp.ones(())))
    assert basis.clamped == 1
    np.testing.assert_allclose(basis.values, [[0.0, 1.0, 2.0]])


def test_a_state_may_be_donated() -> None:
    p = zoo.problem("tiny", batch=3, dtype=jnp.float32)
    tx: Any = gt.ekfac(p.net, LOSS, 0.1)
    step = jax.jit(lambda s, u: tx.update(None, s, u, batch=(p.x, p.y))[1], donate_argnums=0)
    assert step(tx.init(p.params), p.params).curvature[0].step_count == 1


def test_a_wide_dense_layer_keeps_no_square_matrix() -> None:
    net = gt.Network([nn.Dense(4)])
    shapes = jax.eval_shape(
        lambda: gt.kfac(net, LOSS, 0.1).init(
            {"Dense_0": {"kernel": jnp.ones((3136, 4)), "bias": jnp.ones(4)}}
        )
    )
    assert max(leaf.size for leaf in jax.tree.leaves(shapes)) == 128 * 3137
