"""Lowering: layers become stages that compute the same function; names, the table of `explain`."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from tests.sequential import zoo


def dense_output(layer_params: Any, x: Any) -> np.ndarray:
    return np.asarray(x) @ np.asarray(layer_params["kernel"]) + np.asarray(layer_params["bias"])


@pytest.mark.parametrize("name", zoo.NETS)
def test_stages_compose_to_apply(name: str) -> None:
    p = zoo.problem(name)
    states: tuple[jax.Array, ...] = (p.x,)
    acted: list[str] = []
    for stage in p.net.stages:
        acted += stage.players
        states = stage(p.params, states)
    (outputs,) = states
    np.testing.assert_array_equal(outputs, p.net.apply(p.params, p.x))
    assert tuple(acted) == p.net.players == tuple(player_op.name for player_op in p.net.player_ops)
    assert set(acted) == set(p.params) and len(set(acted)) == len(acted)


class HandWritten(nn.Module):
    """Nested blocks, a parametric shortcut, cooperation and pre-activation, written in Flax."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.tanh(nn.Dense(4, name="stem")(x))
        h = nn.Dense(4, name="body_a")(jnp.sin(x))
        inner = nn.Dense(4, name="inner")(h) + h
        h = nn.Dense(4, name="body_b")(jnp.tanh(inner))
        x = h + nn.Dense(4, name="skip")(x)
        x = nn.Dense(4, name="left")(x) + nn.Dense(4, name="right")(x)
        return nn.Dense(3, name="head")(x)


def same_as_stages() -> gt.Network:
    inner = gt.Residual(nn.Dense(4, name="inner"))
    body = [jnp.sin, nn.Dense(4, name="body_a"), inner, jnp.tanh, nn.Dense(4, name="body_b")]
    return gt.Network(
        [
            nn.Dense(4, name="stem"),
            jnp.tanh,
            gt.Residual(body, shortcut=nn.Dense(4, name="skip"), at=1),
            gt.Cooperative([nn.Dense(4, name="left"), nn.Dense(4, name="right")]),
            nn.Dense(3, name="head"),
        ]
    )


def test_equals_a_flax_module_with_the_same_parameters() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)))
    params = HandWritten().init(jax.random.key(1), x)["params"]
    net = same_as_stages()
    expected: Any = HandWritten().apply({"params": params}, x)
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-12)
    assert net.players == (
        "stem", "body_a", "inner", "skip", "body_b", "left", "right", "head"
    )  # fmt: skip
    assert [stage.players for stage in net.stages][2] == ("inner", "skip")


def test_branches_act_side_by_side() -> None:
    """Players in the same place of their branches share a stage; a short branch waits."""
    p = zoo.problem("parallel")
    first, second, third = (p.params[name] for name in ("Dense_1", "Dense_2", "Dense_3"))
    fourth = p.params["Dense_4"]

    def dense(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["kernel"] + params["bias"][None]

    x = jnp.tanh(dense(p.params["Dense_0"], p.x))
    branches = [
        dense(first, x),
        dense(third, jnp.tanh(dense(second, x))),
        dense(fourth, jnp.tanh(x)),
        x,
    ]
    joined = jnp.tanh(jnp.concatenate(branches, -1))
    expected = dense(p.params["Dense_5"], joined)
    np.testing.assert_allclose(p.net.apply(p.params, p.x), expected, rtol=1e-12)
    assert [stage.players for stage in p.net.stages] == [
        ("Dense_0",),
        ("Dense_1", "Dense_2", "Dense_4"),
        ("Dense_3",),
        ("Dense_5",),
    ]


def test_live_states_of_a_shortcut() -> None:
    """Paper Eq. 26: (x) at the split, (x, x_r) inside the block, (x) after the merge."""
    p = zoo.problem("long_block")
    counts = [(len(s.inputs), len(s.outputs)) for s in p.net.stages]
    assert counts == [(1, 1), (1, 2), (2, 2), (2, 1), (1, 1)]
    states: tuple[jax.Array, ...] = (p.x,)
    states_after = []
    for stage in p.net.stages:
        states = stage(p.params, states)
        states_after.append(states)
    np.testing.assert_array_equal(
        states_after[1][1], states_after[0][0]
    )  # the shortcut state is the block's input
    np.testing.assert_array_equal(states_after[2][1], states_after[0][0])
    merged = dense_output(p.params["Dense_3"], states_after[2][0]) + np.asarray(states_after[2][1])
    np.testing.assert_allclose(states_after[3][0], merged, rtol=1e-12)


@pytest.mark.parametrize(("at", "live"), [(0, [1, 2, 2, 1, 1]), (1, [1, 2, 2, 1, 1])])
def test_live_states_of_a_parametric_shortcut(at: int, live: list[int]) -> None:
    """The shortcut player's input is alive before it acts, its output afterwards."""
    p = zoo.problem(f"shortcut_at_{at}")
    assert [len(stage.outputs) for stage in p.net.stages] == live
    states = p.net.stages[1](p.params, p.net.stages[0](p.params, (p.x,)))
    assert [s.shape[1] for s in states] == ([5, 4] if at == 0 else [5, 3])


@pytest.mark.parametrize("at", [0, 1])
def test_layers_of_a_shortcut_act_in_consecutive_stages(at: int) -> None:
    net = zoo.problem(f"long_shortcut_at_{at}").net
    trunk: list[tuple[str, ...]] = [
        ("Dense_0",),
        ("Dense_1",),
        ("Dense_2",),
        ("Dense_3",),
        ("Dense_6",),
    ]
    trunk[1 + at] += ("Dense_4",)
    trunk[2 + at] += ("Dense_5",)
    assert [stage.players for stage in net.stages] == trunk


def test_names_count_up_as_in_flax() -> None:
    net = gt.Network(
        [zoo.conv(2), nn.relu, gt.Residual([zoo.conv(2)], zoo.conv(2)), zoo.flatten, nn.Dense(3)]
    )
    assert net.players == ("Conv_0", "Conv_1", "Conv_2", "Dense_0")


def test_given_names_are_kept() -> None:
    net = gt.Network([nn.Dense(2, name="first"), nn.Dense(2), nn.Dense(2, name="last")])
    assert net.players == ("first", "Dense_0", "last")


def test_explain_returns_the_game_as_a_table() -> None:
    p = zoo.problem("shortcut_at_1")
    text = gt.explain(p.net, p.params, jax.ShapeDtypeStruct((8, 4), jnp.float32))
    lines = text.splitlines()
    total = sum(leaf.size for leaf in jax.tree.leaves(p.params))
    assert lines[0] == f"5 stages, 6 players, {total} parameters"
    assert len(lines) == 2 + len(p.net.players)
    row = next(line for line in lines if "Dense_4" in line)
    assert row.split()[:2] == ["Dense_4", "Dense"]  # second player of its stage: no stage number
    assert "(8, 3)" in row and "(8, 4)" in row and " 16 " in row and "factored" in row
    trunk = next(line for line in lines if "Dense_1" in line)
    assert trunk.split()[0] == "1" and "(8, 5) (8, 3)" in trunk


def test_explain_shows_the_cost_rule_at_this_batch_size() -> None:
    net = gt.Network([zoo.conv(64), zoo.flatten, nn.Dense(3)])
    x = jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32)
    params = net.param_shapes(x)
    many = jax.ShapeDtypeStruct((512, 8, 8, 64), jnp.float32)
    assert "kept" in gt.explain(net, params, x) and "recomputed" not in gt.explain(net, params, x)
    assert "recomputed" in gt.explain(net, params, many)


def test_explain_needs_no_arguments_after_init() -> None:
    p = zoo.problem("shortcut_at_1")
    net = gt.Network(p.net.layers)
    table = gt.explain(net, p.params, p.x)
    # Before, the table shows what is known, and where to get the rest from.
    head, *rows, advice = net.explain().splitlines()
    assert head == "5 stages, 6 players" and advice.endswith("or first net.init(key, x).")
    assert [row.split()[-2:] for row in rows[1:]] == [[name, "Dense"] for name in net.players]
    assert gt.explain(net, p.params).splitlines()[0] == table.splitlines()[0]
    assert [row.split()[-1] for row in net.explain(p.params).splitlines()[2:-1]] == [
        str(sum(leaf.size for leaf in jax.tree.leaves(p.params[name]))) for name in net.players
    ]
    # A batch is enough, because the parameters follow from it.
    assert net.explain(x=p.x) == net.explain(p.params, p.x) == table
    assert net.explain() != table
    net.init(jax.random.key(0), p.x)
    assert net.explain() == gt.explain(net) == net.explain(p.params) == table
    kfac = gt.curvature.KFAC(1e-2)
    assert net.explain(curvature=kfac) == gt.explain(net, p.params, p.x, kfac) != table


def test_param_shapes_are_those_of_init() -> None:
    net = gt.Network([nn.Dense(4), nn.BatchNorm(), nn.relu, nn.Dense(2, param_dtype=jnp.bfloat16)])
    x = jnp.ones((8, 3))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        net.param_shapes(x), net.init(jax.random.key(0), x)
    )


def test_repr_is_short() -> None:
    assert str(same_as_stages()) == repr(same_as_stages()) == "Network(6 stages, 8 players)"


def test_init_matches_the_module_and_varies_with_the_key() -> None:
    p = zoo.problem("small")
    params, other_params = (p.net.init(jax.random.key(seed), p.x) for seed in (0, 1))
    chex.assert_trees_all_equal_shapes(params, p.params)
    chex.assert_trees_all_equal(params, p.net.init(jax.random.key(0), p.x))
    kernels, other_kernels = (
        [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 2]
        for tree in (params, other_params)
    )
    for kernel, other_kernel in zip(kernels, other_kernels, strict=True):
        assert not np.array_equal(kernel, other_kernel)
    # Each player has its own key.
    first, second = (np.asarray(kernel) for kernel in kernels if kernel.shape == (3, 3))
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_init_under_jit_and_vmap() -> None:
    p = zoo.problem("small")
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(lambda key: p.net.init(key, p.x)))(keys)
    for i in range(3):
        single = p.net.init(keys[i], p.x)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], many), single, rtol=1e-6
        )


def test_single_layers_need_no_list() -> None:
    p = zoo.make(
        zoo.Spec(lambda: [nn.Dense(4), gt.Residual(nn.Dense(4), nn.Dense(4)), nn.Dense(2)])
    )
    h = dense_output(p.params["Dense_0"], p.x)
    total = dense_output(p.params["Dense_1"], h) + dense_output(p.params["Dense_2"], h)
    expected = dense_output(p.params["Dense_3"], total)
    np.testing.assert_allclose(p.net.apply(p.params, p.x), expected, rtol=1e-12)


@dataclasses.dataclass
class Scaled:
    """A function that defines equality and is therefore not hashable."""

    factor: float

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.factor * x


def test_functions_need_no_hash() -> None:
    net = gt.Network([nn.Dense(2), Scaled(2.0), nn.Dense(1)])
    params = net.init(jax.random.key(0), jnp.ones((1, 3)))
    assert net.apply(params, jnp.ones((4, 3))).shape == (4, 1)
