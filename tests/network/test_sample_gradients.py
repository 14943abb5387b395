"""Per-sample gradients of every kind of layer, under every cost rule, against autodiff."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gtddp_jax.network.program import PlayerOp
from gtddp_jax.network.sample_gradients import (
    compute_sample_gradients,
    layer_rules,
    parameter_count,
)
from tests.sequential import zoo

B = 3
IMAGE, DEEP, SIGNAL = (5, 4, 2), (4, 3, 4), (6, 2)


class Doubled(nn.Dense):
    """A subclass that computes something else, so it must not count as dense."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return jnp.square(super().__call__(inputs))


def doubled_product(*args: Any, **kwargs: Any) -> jax.Array:
    return 2 * jax.lax.dot_general(*args, **kwargs)


CASES: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": ("dense", lambda: nn.Dense(3), (4,)),
    "dense, no bias": ("dense", lambda: nn.Dense(3, use_bias=False), (4,)),
    "dense on tokens": ("dense", lambda: nn.Dense(3), (5, 4)),
    "dense on images": ("dense", lambda: nn.Dense(3, use_bias=False), IMAGE),
    "dense with a custom product": (
        "generic",
        lambda: nn.Dense(3, dot_general=doubled_product),
        (4,),
    ),
    "a subclass of dense": ("generic", lambda: Doubled(3), (4,)),
    "norm": ("generic", lambda: nn.LayerNorm(), (4,)),
    "norm on images": ("generic", lambda: nn.GroupNorm(2), IMAGE),
    "custom": ("generic", lambda: zoo.Gate(), (3, 4)),
    "embedding": ("generic", lambda: nn.DenseGeneral((2, 2), axis=(-2, -1)), (3, 2)),
    "conv": ("conv", lambda: zoo.conv(3), IMAGE),
    "conv, no bias": ("conv", lambda: zoo.conv(3, use_bias=False), IMAGE),
    "conv, even kernel": ("conv", lambda: zoo.conv(3, (2, 4)), IMAGE),
    "conv, strides": ("conv", lambda: zoo.conv(3, strides=(2, 3)), IMAGE),
    "conv, one stride": ("conv", lambda: zoo.conv(3, strides=2), IMAGE),
    "conv, strides, valid": (
        "conv",
        lambda: zoo.conv(3, (2, 2), strides=2, padding="VALID"),
        IMAGE,
    ),
    "conv, pairs": ("conv", lambda: zoo.conv(3, padding=((2, 0), (1, 3))), IMAGE),
    "conv, ints": ("conv", lambda: zoo.conv(3, padding=(2, 1), strides=2), IMAGE),
    "conv, one int": ("conv", lambda: zoo.conv(3, padding=2), IMAGE),
    "conv, dilation": ("conv", lambda: zoo.conv(3, (2, 2), kernel_dilation=(3, 2)), IMAGE),
    "conv, dilation, strides": (
        "conv",
        lambda: zoo.conv(3, (2, 2), kernel_dilation=2, strides=2, padding="SAME"),
        IMAGE,
    ),
    "conv, groups": ("conv", lambda: zoo.conv(6, feature_group_count=2), DEEP),
    "conv, depthwise": (
        "conv",
        lambda: zoo.conv(4, feature_group_count=2, padding="VALID", strides=2),
        IMAGE,
    ),
    "conv 1-d": ("conv", lambda: zoo.conv(3, 3), SIGNAL),
    "conv 1-d, strides": ("conv", lambda: zoo.conv(3, 4, strides=2, kernel_dilation=1), SIGNAL),
    "conv 1-d, one int": ("conv", lambda: nn.Conv(3, 3, padding=1), SIGNAL),
    "conv 3-d": ("conv", lambda: zoo.conv(2, (2, 1, 2)), (3, 2, 2, 2)),
    "conv, causal": ("generic", lambda: zoo.conv(3, 3, padding="CAUSAL"), SIGNAL),
    "conv, circular": ("generic", lambda: zoo.conv(3, padding="CIRCULAR"), IMAGE),
    "conv, reflect": ("generic", lambda: zoo.conv(3, padding="REFLECT"), IMAGE),
    "conv, input dilation": ("generic", lambda: zoo.conv(3, input_dilation=2, padding=1), IMAGE),
    "conv, one axis more": ("generic", lambda: zoo.conv(3, 3), (2, 6, 2)),
    "conv, masked": (
        "generic",
        lambda: zoo.conv(3, mask=np.tri(3, 6).reshape(3, 3, 2, 1) * np.ones(3)),
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sums_equal_autodiff(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, build, shape = CASES[name]
    module, rng = build(), np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape))

    x = draw((B, *shape))
    params = jax.tree.map(
        lambda s: draw(s.shape), jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    )
    player_op = PlayerOp("player", module, 0, 1)
    g = draw(jax.eval_shape(lambda x: player_op({"player": params}, x), x).shape)
    w = draw((B,))
    k, d = (jax.tree.map(lambda p: draw(p.shape), params) for _ in range(2))
    scalar = jax.tree.map(lambda p: jnp.asarray(0.7, p.dtype), params)

    def sums(rule: str) -> dict[str, Any]:
        limits = {
            "kept": lambda x, g: 10**9,
            "recomputed": lambda x, g: 2 * parameter_count(params),
        }
        monkeypatch.setattr(layer_rules, "keep_limit", limits[rule])
        gradients = compute_sample_gradients(
            player_op.module, player_op.apply, params, x, g, feedback=True
        )
        return {
            "all ones": gradients.weighted_sum(None),
            "weighted": gradients.weighted_sum(w),
            "dot": gradients.directional_derivative(k),
            "square": gradients.quadratic_form(d),
            "square, scaled": gradients.quadratic_form(scalar),
        }

    def expected_sums() -> dict[str, Any]:
        def score(params: Any, x: jax.Array, g: jax.Array) -> jax.Array:
            return (player_op({"player": params}, x[None])[0] * g).sum()

        stored = jax.vmap(jax.grad(score), in_axes=(None, 0, 0))(params, x, g)
        flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(stored)
        return {
            "all ones": jax.tree.map(lambda leaf: leaf.sum(0), stored),
            "weighted": jax.tree.map(lambda leaf: jnp.tensordot(w, leaf, 1), stored),
            "dot": flat @ ravel_pytree(k)[0],
            "square": jnp.square(flat) @ ravel_pytree(d)[0],
            "square, scaled": 0.7 * jnp.square(flat).sum(1),
        }

    @jax.jit
    def computed_and_expected() -> tuple[dict[str, Any], dict[str, Any]]:
        return {rule: sums(rule) for rule in ("kept", "recomputed")}, expected_sums()

    assert layer_rules.layer_kind(module, x.shape) == kind
    computed, expected = computed_and_expected()
    for rule, sums_of_rule in computed.items():
        chex.assert_trees_all_close(
            sums_of_rule, expected, rtol=1e-9, atol=1e-12, custom_message=rule
        )


def test_every_kind_is_covered() -> None:
    assert {kind for kind, _, _ in CASES.values()} == {
        *layer_rules.LAYER_RULES,
        layer_rules.GENERIC,
    }


@pytest.mark.parametrize(
    ("dtype", "sum_dtype"), [(jnp.bfloat16, jnp.float32), (jnp.float64, jnp.float64)]
)
@pytest.mark.parametrize("name", ["dense", "dense on tokens", "conv", "norm"])
def test_sums_over_samples_are_in_at_least_float32(name: str, dtype: Any, sum_dtype: Any) -> None:
    _, build, shape = CASES[name]
    module = build()
    x = jnp.ones((B, *shape), dtype)
    params = zoo.cast(module.init(jax.random.key(0), x)["params"], dtype)
    player_op = PlayerOp("player", module, 0, 1)
    g = player_op({"player": params}, x)
    assert g.dtype == dtype
    gradients = compute_sample_gradients(
        player_op.module, player_op.apply, params, x, g, feedback=True
    )
    for w in (None, jnp.ones(B, sum_dtype)):
        assert all(leaf.dtype == sum_dtype for leaf in jax.tree.leaves(gradients.weighted_sum(w)))
    assert (
        gradients.directional_derivative(params).dtype
        == gradients.quadratic_form(params).dtype
        == sum_dtype
    )
