"""When parameters first meet data and what they cost, read from the trace of any function."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from gtddp_jax.tracing.parameter_costs import ParameterCost, parameter_costs

Tree = Any
BATCH, WIDTH = 2, 3
X = jnp.ones((BATCH, WIDTH))
PRODUCT = 2 * BATCH * WIDTH * WIDTH
"""Floating-point operations of one X @ w."""


def named_costs(fn: Callable[[Tree], Any], params: Tree) -> dict[str, ParameterCost]:
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    return dict(zip(paths, parameter_costs(fn, params), strict=True))


def identity_matrices(*names: str) -> dict[str, jax.Array]:
    return {name: jnp.eye(WIDTH, dtype=X.dtype) for name in names}


def by_first_use(found: dict[str, ParameterCost]) -> list[str]:
    return sorted(found, key=lambda name: found[name].first_use)


def module_costs(module: nn.Module, x: jax.Array) -> dict[str, ParameterCost]:
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def fn(params: Tree) -> Any:
        return module.apply({"params": params}, x, rngs={"dropout": jax.random.key(1)})

    return named_costs(fn, variables["params"])


def test_order_follows_the_program_and_not_the_names() -> None:
    found = named_costs(
        lambda p: jnp.tanh(jnp.tanh(X @ p["c"]) @ p["a"] + p["bias"]) @ p["b"],
        identity_matrices("a", "b", "c", "never") | {"bias": jnp.ones((1, WIDTH))},
    )
    assert by_first_use(found) == ["never", "c", "a", "bias", "b"]
    assert [found[name].flops for name in by_first_use(found)] == [0, PRODUCT, PRODUCT, 0, PRODUCT]
    assert found["never"].first_use == -1


def test_values_computed_from_parameters_alone_are_parameters() -> None:
    """Casts, reshapes and normalised weights are used where they meet data."""

    def fn(p: Tree) -> jax.Array:
        w = (p["v"] / jnp.linalg.norm(p["v"]) * p["scale"]).astype(jnp.float32)
        low_rank = p["left"] @ p["right"]
        return jnp.tanh(X.astype(jnp.float32) @ p["first"]) @ (w + low_rank)

    found = named_costs(
        fn, identity_matrices("first", "v", "left", "right") | {"scale": jnp.ones(())}
    )
    assert found["first"].first_use < found["v"].first_use
    assert len({found[name].first_use for name in ("v", "scale", "left", "right")}) == 1
    assert {use.flops for use in found.values()} == {PRODUCT}


def with_custom_jvp(f: Any) -> Any:
    inner = jax.custom_jvp(f)
    inner.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return inner


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        with_custom_jvp,
        jax.vmap,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
    ],
    ids=["jit", "checkpoint", "custom_jvp", "vmap", "nested"],
)
def test_calls_are_followed(wrap: Any) -> None:
    inner = wrap(lambda x, w: jnp.tanh(x @ w))

    def fn(p: Tree) -> jax.Array:
        if wrap is jax.vmap:
            repeated = jnp.broadcast_to(p["b"], (BATCH, WIDTH, WIDTH))
            return inner(jnp.tanh(X @ p["a"]), repeated) @ p["c"]
        return inner(jnp.tanh(X @ p["a"]), p["b"]) @ p["c"]

    found = named_costs(fn, identity_matrices("a", "b", "c"))
    assert by_first_use(found) == ["a", "b", "c"]
    assert [use.flops for use in found.values()] == [PRODUCT] * 3


def test_custom_vjp_is_followed() -> None:
    @jax.custom_vjp
    def product(x: jax.Array, w: jax.Array) -> jax.Array:
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    found = named_costs(
        lambda p: product(jnp.tanh(product(X, p["a"])), p["b"]), identity_matrices("a", "b")
    )
    assert by_first_use(found) == ["a", "b"]
    assert [use.flops for use in found.values()] == [PRODUCT] * 2


def test_the_body_of_a_scan_counts_once_per_iteration() -> None:
    """Layers stacked by `nn.scan`, each recomputed in the backward pass by `nn.remat`."""

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
            return nn.tanh(nn.Dense(WIDTH)(x)), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            scanned = nn.scan(
                nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=5
            )
            x, _ = scanned(name="stack")(nn.Dense(WIDTH, name="first")(x), None)
            return nn.Dense(WIDTH, name="head")(x)

    found = module_costs(Stack(), X)
    kernels = ["first/kernel", "stack/Dense_0/kernel", "head/kernel"]
    assert [name for name in by_first_use(found) if "kernel" in name] == kernels
    assert [found[name].flops for name in kernels] == [PRODUCT, 5 * PRODUCT, PRODUCT]


def test_shared_weights_of_a_loop() -> None:
    def fn(p: Tree) -> jax.Array:
        return jax.lax.fori_loop(0, 4, lambda i, x: jnp.tanh(x @ p["w"]), X) @ p["head"]

    found = named_costs(fn, identity_matrices("w", "head"))
    assert by_first_use(found) == ["w", "head"]
    assert (found["w"].flops, found["head"].flops) == (4 * PRODUCT, PRODUCT)


@jax.enable_x64(False)  # Flax creates the initial carry in float32
def test_recurrent_weights() -> None:
    """The carry starts as a constant and depends on data after the first iteration."""

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            h: Any = nn.RNN(nn.SimpleCell(WIDTH, name="cell"))(x)
            return nn.Dense(WIDTH, name="head")(h[:, -1])

    found = module_costs(Recurrent(), jnp.ones((BATCH, 5, WIDTH)))
    assert found["cell/i/kernel"].flops == found["cell/h/kernel"].flops == 5 * PRODUCT


def test_tied_embeddings_count_from_their_first_use() -> None:
    """The lookup costs no product, the logits at the end do."""
    tokens, vocabulary = jnp.ones((BATCH, 4), int), 7

    class Tied(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array) -> jax.Array:
            table = nn.Embed(vocabulary, WIDTH, name="table")
            return table.attend(nn.LayerNorm(name="norm")(nn.Dense(WIDTH)(table(tokens))))

    found = module_costs(Tied(), tokens)
    assert by_first_use(found)[0] == "table/embedding"
    assert by_first_use(found)[-2:] == ["norm/scale", "norm/bias"]
    assert found["table/embedding"].flops == 2 * tokens.size * WIDTH * vocabulary
    assert found["Dense_0/kernel"].flops == 2 * tokens.size * WIDTH * WIDTH


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions(groups: int) -> None:
    images = jnp.ones((BATCH, 6, 5, 4))
    module = nn.Conv(8, (3, 2), strides=2, feature_group_count=groups)
    found = module_costs(module, images)
    positions = math.prod(
        jax.eval_shape(module.init_with_output, jax.random.key(0), images)[0].shape
    )
    assert found["kernel"].flops == 2 * positions * (3 * 2 * 4 // groups)
    assert by_first_use(found) == ["kernel", "bias"]


def test_attention_and_norms() -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            attention = nn.MultiHeadDotProductAttention(2, qkv_features=4, dropout_rate=0.1)
            h = attention(nn.LayerNorm(name="norm")(x), deterministic=False)
            return nn.Dense(2, name="head")((x + h).mean(1))

    tokens = jnp.ones((BATCH, 5, WIDTH))
    found = module_costs(Block(), tokens)
    assert by_first_use(found)[:2] == ["norm/scale", "norm/bias"]
    assert by_first_use(found)[-2:] == ["head/kernel", "head/bias"]
    rows = BATCH * 5
    for part in ("query", "key", "value", "out"):
        kernel = found[f"MultiHeadDotProductAttention_0/{part}/kernel"]
        assert kernel.flops == 2 * rows * WIDTH * 4
