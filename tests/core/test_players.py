"""Per-sample gradients of every kind of layer under every rule, against autodiff by sample."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gtddp_jax.network.program import Act
from gtddp_jax.players import parameter_count, rules, sample_gradients
from tests.core import oracle, zoo

B = 3
IMAGE, DEEP, SIGNAL = (5, 4, 2), (4, 3, 4), (6, 2)


class Doubled(nn.Dense):
    """A subclass with mathematics of its own, which the dense kind must leave alone."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return jnp.square(super().__call__(inputs))


def own_product(*args: Any, **kwargs: Any) -> jax.Array:
    return 2 * jax.lax.dot_general(*args, **kwargs)


CASES: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": ("dense", lambda: nn.Dense(3), (4,)),
    "dense, no bias": ("dense", lambda: nn.Dense(3, use_bias=False), (4,)),
    "dense on tokens": ("dense", lambda: nn.Dense(3), (5, 4)),
    "dense on images": ("dense", lambda: nn.Dense(3, use_bias=False), IMAGE),
    "dense with a product of its own": (
        "generic",
        lambda: nn.Dense(3, dot_general=own_product),
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
    act = Act("player", module, 0, 1)
    g = draw(jax.eval_shape(lambda x: act({"player": params}, x), x).shape)
    w = draw((B,))
    k, d = (jax.tree.map(lambda p: draw(p.shape), params) for _ in range(2))
    scalar = jax.tree.map(lambda p: jnp.asarray(0.7, p.dtype), params)

    def sums(rule: str) -> dict[str, Any]:
        limits = {
            "kept": lambda x, g: 10**9,
            "recomputed": lambda x, g: 2 * parameter_count(params),
        }
        monkeypatch.setattr(rules, "keep_limit", limits[rule])
        gradients = sample_gradients(act, params, x, g, feedback=True)
        return {
            "all ones": gradients.weighted(None),
            "weighted": gradients.weighted(w),
            "dot": gradients.dot(k),
            "square": gradients.square(d),
            "square, scaled": gradients.square(scalar),
        }

    def by_autodiff() -> dict[str, Any]:
        def score(params: Any, x: jax.Array, g: jax.Array) -> jax.Array:
            return (act({"player": params}, x[None])[0] * g).sum()

        big = jax.vmap(jax.grad(score), in_axes=(None, 0, 0))(params, x, g)
        flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(big)
        return {
            "all ones": jax.tree.map(lambda leaf: leaf.sum(0), big),
            "weighted": jax.tree.map(lambda leaf: jnp.tensordot(w, leaf, 1), big),
            "dot": flat @ ravel_pytree(k)[0],
            "square": jnp.square(flat) @ ravel_pytree(d)[0],
            "square, scaled": 0.7 * jnp.square(flat).sum(1),
        }

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
    def everything() -> tuple[dict[str, Any], dict[str, Any]]:
        return {rule: sums(rule) for rule in ("kept", "recomputed")}, by_autodiff()

    assert rules.kind(module, x.shape) == kind
    ours, want = everything()
    for rule, got in ours.items():
        for what in want:
            jax.tree.map(
                functools.partial(
                    np.testing.assert_allclose, rtol=1e-9, atol=1e-12, err_msg=f"{rule}: {what}"
                ),
                got[what],
                want[what],
            )


def test_every_kind_is_covered() -> None:
    assert {kind for kind, _, _ in CASES.values()} == {*rules.KINDS, rules.GENERIC}


@pytest.mark.parametrize(
    ("dtype", "wide"), [(jnp.bfloat16, jnp.float32), (jnp.float64, jnp.float64)]
)
@pytest.mark.parametrize("name", ["dense", "dense on tokens", "conv", "norm"])
def test_sums_over_samples_are_wide(name: str, dtype: Any, wide: Any) -> None:
    _, build, shape = CASES[name]
    module = build()
    x = jnp.ones((B, *shape), dtype)
    params = zoo.cast(module.init(jax.random.key(0), x)["params"], dtype)
    act = Act("player", module, 0, 1)
    g = act({"player": params}, x)
    assert g.dtype == dtype
    gradients = sample_gradients(act, params, x, g, feedback=True)
    for w in (None, jnp.ones(B, wide)):
        assert all(leaf.dtype == wide for leaf in jax.tree.leaves(gradients.weighted(w)))
    assert gradients.dot(params).dtype == gradients.square(params).dtype == wide
