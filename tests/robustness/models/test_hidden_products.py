"""Products inside branches, loops and devices, or with modified weights, cost what they cost."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import gtddp_jax as gt
from gtddp_jax.tracing.parameter_costs import ParameterCost, parameter_costs

Tree = Any
BATCH, WIDTH = 4, 3
PRODUCT = 2 * BATCH * WIDTH * WIDTH
Layer = Callable[[jax.Array, jax.Array], jax.Array]


def plain(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(x @ w)


def with_custom_vjp(layer: Layer) -> Layer:
    wrapped = jax.custom_vjp(layer)
    wrapped.defvjp(lambda x, w: jax.vjp(layer, x, w), lambda pullback, g: pullback(g))
    return wrapped


def on_devices(layer: Layer) -> Layer:
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("i"), PartitionSpec()
    return jax.shard_map(layer, mesh=mesh, in_specs=(rows, whole), out_specs=rows)


def by_opaque_kernel(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(jax.pure_callback(jnp.matmul, jax.ShapeDtypeStruct(x.shape, x.dtype), x, w))


def in_linear_solve(x: jax.Array, w: jax.Array) -> jax.Array:
    """The solution of an equation of which the matrix product with `w` is the solver."""
    solution: Any = lax.custom_linear_solve(
        lambda y: y @ jnp.linalg.inv(w), x, lambda _, right: right @ w, lambda _, right: right @ w.T
    )
    return jnp.tanh(solution)


def captured_branch(x: jax.Array, w: jax.Array) -> jax.Array:
    """A switch whose branches capture everything."""
    return lax.switch(jnp.argmax(x[0]), [lambda: plain(x, w), lambda: x, lambda: plain(x, w)])


def in_loop(x: jax.Array, w: jax.Array) -> jax.Array:
    """A loop whose carry counts the iterations, as `lax.fori_loop` makes it for static bounds."""
    stacked = w[None]
    return lax.fori_loop(0, 1, lambda i, x: plain(x, stacked[i]), x)


def until_done(x: jax.Array, w: jax.Array) -> jax.Array:
    done = lax.while_loop(
        lambda carry: carry[0] < 1, lambda carry: (carry[0] + 1, plain(carry[1], w)), (0, x)
    )
    return done[1]


LAYERS: dict[str, Layer] = {
    "cond": lambda x, w: lax.cond(x.sum() > 0, plain, plain, x, w),
    "cond, one cheap branch": lambda x, w: lax.cond(x.sum() > 0, plain, lambda x, _: x, x, w),
    "cond in cond": lambda x, w: lax.cond(
        x.sum() > 0, lambda x, w: lax.cond(x[0, 0] > 0, plain, plain, x, w), lambda x, _: x, x, w
    ),
    "switch that captures": captured_branch,
    "jit, checkpoint": jax.jit(jax.checkpoint(plain)),
    "custom_vjp": with_custom_vjp(plain),
    "custom_vjp of cond": with_custom_vjp(
        lambda x, w: lax.cond(x.sum() > 0, plain, lambda x, _: x, x, w)
    ),
    "scan": lambda x, w: lax.scan(lambda x, w: (plain(x, w), None), x, w[None])[0],
    "cond in scan": lambda x, w: lax.scan(
        lambda x, w: (lax.cond(x.sum() > 0, plain, plain, x, w), None), x, w[None]
    )[0],
    "fori_loop": in_loop,
    "while_loop": until_done,
    "shard_map": on_devices(plain),
    "pmap": lambda x, w: jax.pmap(plain, in_axes=(0, None))(x[None], w)[0],
    "custom_linear_solve": in_linear_solve,
    "composite": lambda x, w: lax.composite(plain, "layer")(x, w),
    "callback": by_opaque_kernel,
    "ragged_dot": lambda x, w: jnp.tanh(
        lax.ragged_dot(x.astype("float32"), w[None].astype("float32"), jnp.array([BATCH]))
    ).astype(x.dtype),
    "one product per sample": jax.vmap(plain, (0, None)),
    "mask on the weights": lambda x, w: plain(x, jnp.where(x[:3] > 0, w, 0)),
    "scale from the data": lambda x, w: plain(x, w / jnp.abs(x).max()),
    "row of a table": lambda x, w: plain(x, w[None][jnp.argmax(x[0]) * 0]),
    "weights of each sample": lambda x, w: jnp.tanh(
        jnp.einsum("bi,bij->bj", x, w[None][jnp.argmax(x, axis=1) * 0])
    ),
    "chosen weights": lambda x, w: plain(x, lax.cond(x.sum() > 0, lambda: w, lambda: 2 * w)),
    "low rank": lambda x, w: plain(x, w + w[:, :1] @ w[:1]),
    "normalised": lambda x, w: plain(x, w / jnp.linalg.norm(w, axis=0, keepdims=True)),
    "parts": lambda x, w: plain(x, jnp.concatenate([w[:1], w[1:]]).T.astype(x.dtype)),
}
"""The same layer, written in other ways."""


def costs(layer: Layer, x: jax.Array | None = None) -> dict[str, ParameterCost]:
    x = jnp.ones((BATCH, WIDTH)) if x is None else x
    params = {name: jnp.eye(WIDTH) for name in ("last", "other", "start")}
    params |= {"bias": jnp.ones((1, WIDTH))}

    def apply(p: Tree) -> jax.Array:
        h = layer(layer(x, p["start"]) + p["bias"], p["other"])
        return h @ p["last"]

    found = parameter_costs(apply, params)
    return dict(zip(sorted(params), found, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_costs_the_same_however_it_is_written(name: str) -> None:
    found = costs(LAYERS[name])
    assert sorted(found, key=lambda leaf: found[leaf].first_use) == [
        "start",
        "bias",
        "other",
        "last",
    ]
    assert len({cost.first_use for cost in found.values()}) == 4
    got = {leaf: cost.flops for leaf, cost in found.items()}
    assert got == pytest.approx({"start": PRODUCT, "bias": 0, "other": PRODUCT, "last": PRODUCT})


def test_a_single_sample_changes_no_order() -> None:
    """With one sample, a bias is as large as an activation."""
    found = costs(plain, jnp.ones((1, WIDTH)))
    assert sorted(found, key=lambda leaf: found[leaf].first_use) == [
        "start",
        "bias",
        "other",
        "last",
    ]
    assert {cost.flops for cost in found.values()} == {0, PRODUCT / BATCH}


def test_experts_are_alternatives() -> None:
    """Each expert counts as in its own branch, and all act at the same position."""
    x = jnp.ones((BATCH, WIDTH))
    names = [f"expert{number}" for number in range(3)]
    params = {name: jnp.eye(WIDTH) for name in [*names, "head"]}

    def apply(p: Tree) -> jax.Array:
        branches = [lambda w=p[name]: plain(x, w) for name in names]
        return lax.switch(jnp.argmax(x[0]), branches) @ p["head"]

    *experts, head = parameter_costs(apply, params)
    assert len({cost.first_use for cost in experts}) == 1
    assert head.first_use > experts[0].first_use
    assert [cost.flops for cost in (*experts, head)] == [PRODUCT] * 4


def test_a_learned_initial_state() -> None:
    """A carry that starts from a parameter and continues as data."""
    x = jnp.ones((5, BATCH, WIDTH))
    params = {name: jnp.eye(WIDTH) for name in ("input", "recurrent")}
    params |= {"start": jnp.ones((1, WIDTH))}

    def apply(p: Tree) -> jax.Array:
        h = jnp.broadcast_to(p["start"], (BATCH, WIDTH))
        return lax.scan(lambda h, x: (jnp.tanh(x @ p["input"] + h @ p["recurrent"]), None), h, x)[0]

    of_input, recurrent, start = parameter_costs(apply, params)
    assert of_input.flops == recurrent.flops == 5 * PRODUCT
    assert 0 <= start.first_use <= recurrent.first_use


@jax.enable_x64(False)
def test_spectral_normalization() -> None:
    """The largest singular value is estimated from a vector among the statistics."""

    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.SpectralNorm(nn.Dense(WIDTH, name="first"))(x, update_stats=True)
            return nn.Dense(WIDTH, name="head")(nn.tanh(x))

    x = jnp.ones((BATCH, WIDTH))
    variables = Normalized().init(jax.random.key(0), x)

    def apply(params: Tree) -> Any:
        return Normalized().apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    found = jax.tree.unflatten(
        jax.tree.structure(variables["params"]), parameter_costs(apply, variables["params"])
    )
    assert found["head"]["kernel"].flops == PRODUCT
    # Besides the layer's own product, the estimate takes some with the vector.
    assert PRODUCT < found["first"]["kernel"].flops <= 2 * PRODUCT
    assert found["first"]["kernel"].first_use < found["head"]["kernel"].first_use


@pytest.mark.slow
def test_the_tail_is_that_of_the_plain_network() -> None:
    """The steps equal those of the plain network, whose tail is its head."""
    x = jnp.sin(jnp.arange(1.0, 1 + BATCH * WIDTH)).reshape(BATCH, WIDTH)
    params = {name: jnp.eye(WIDTH) + 0.1 for name in ("last", "start")}
    batch = (x, jnp.arange(BATCH) % WIDTH)

    def train(layer: Layer) -> tuple[Tree, Any]:
        tx: Any = gt.implicit(
            optax.sgd(0.3, momentum=0.9),
            lambda p, x: layer(x, p["start"]) @ p["last"],
            optax.softmax_cross_entropy_with_integer_labels,
        )
        step, state, after = gt.make_update(tx), tx.init(params), params
        for _ in range(3):
            after, state = step(after, state, batch)
        return after, state

    (got, state), (want, plain_state) = train(LAYERS["cond in scan"]), train(plain)
    assert state.prediction.fraction == plain_state.prediction.fraction == 0.5
    assert state.prediction.trust == plain_state.prediction.trust
    for leaf in got:
        assert jnp.abs(got[leaf] - want[leaf]).max() < 1e-12
