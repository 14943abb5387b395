"""Convolutional players, normalised to `[batch, position, feature]` before any mathematics."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from gtddp_jax.core.trees import wide
from gtddp_jax.network.program import Act
from gtddp_jax.players.layers import ConvLayer

WORKING_SET = {"cpu": 2**19}
"""Numbers of patches held at once, by platform: what fits a processor's cache is several times as
fast there as the whole batch (`benchmarks/step_time.py`). Elsewhere `LARGE_WORKING_SET`."""
LARGE_WORKING_SET = 2**26


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    return (value,) * length if isinstance(value, int) else tuple(value)


def _kernel(module: Any) -> tuple[int, ...]:
    size = module.kernel_size
    return (size,) if isinstance(size, int) else tuple(size)


def _pads(module: Any, spatial: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """Explicit zero padding of each spatial axis, or None for a kind that has no such form."""
    size = _kernel(module)
    if isinstance(module.padding, str):
        if module.padding not in ("SAME", "VALID"):
            return None
        reach = [
            (k - 1) * d + 1
            for k, d in zip(size, _tuple(module.kernel_dilation or 1, len(size)), strict=True)
        ]
        strides = _tuple(module.strides or 1, len(size))
        return [(lo, hi) for lo, hi in lax.padtype_to_pads(spatial, reach, strides, module.padding)]
    pads = _tuple(module.padding, len(size)) if isinstance(module.padding, int) else module.padding
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in pads]


def is_conv(module: nn.Module | ConvLayer, shape: tuple[int, ...]) -> bool:
    """Whether the module is a plain convolution with zero padding on [B, spatial..., features]."""
    if isinstance(module, ConvLayer):
        return len(shape) == len(module.kernel_size) + 2
    if type(module) is not nn.Conv:
        return False
    size = _kernel(module)
    return (
        len(shape) == len(size) + 2
        and module.mask is None
        and module.conv_general_dilated is None
        and module.conv_general_dilated_cls is None
        and all(d == 1 for d in _tuple(module.input_dilation or 1, len(size)))
        and _pads(module, shape[1:-1]) is not None
    )


def per_sample_gradients(act: Act, x: jax.Array, g: jax.Array) -> dict[str, Any]:
    """`G_i[offset] = sum_s x_i[s + offset] g_i[s]^T` for every kernel offset, in chunks of samples.

    Args:
        act: the move of an `nn.Conv` for which `is_conv` holds.
        x: inputs [B, spatial..., features].
        g: output adjoints [B, spatial..., features].

    Returns:
        `{"kernel": [B, *kernel, features in a group, features], "bias": [B, features]}`.
    """
    patches = math.prod(g.shape[1:-1]) * math.prod(_kernel(act.module)) * x.shape[-1]
    chunk = max(1, WORKING_SET.get(jax.default_backend(), LARGE_WORKING_SET) // patches)
    if chunk >= x.shape[0]:
        return _gradients(act.module, x, g)

    def one(sample: tuple[jax.Array, jax.Array]) -> dict[str, Any]:
        x, g = sample
        return jax.tree.map(lambda v: v[0], _gradients(act.module, x[None], g[None]))

    return lax.map(one, (x, g), batch_size=chunk)


def _windows(module: Any, x: jax.Array) -> tuple[jax.Array, Callable[[int, int], slice]]:
    """The padded inputs, and what a kernel offset sees of one of their spatial axes."""
    size = _kernel(module)
    strides = _tuple(module.strides or 1, len(size))
    dilation = _tuple(module.kernel_dilation or 1, len(size))
    pads = _pads(module, x.shape[1:-1])
    assert pads is not None
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]

    def window(offset: int, axis: int) -> slice:
        first = offset * dilation[axis]
        return slice(first, first + (out[axis] - 1) * strides[axis] + 1, strides[axis])

    return x, window


def patches(module: Any, x: jax.Array) -> jax.Array:
    """What each output position sees: [B, *output positions, kernel offsets, input features]."""
    size = _kernel(module)
    x, window = _windows(module, x)
    offsets = itertools.product(*(range(n) for n in size))
    seen = [
        x[(slice(None), *(window(i, axis) for axis, i in enumerate(offset)))] for offset in offsets
    ]
    return jnp.stack(seen, axis=-2)


def _gradients(module: Any, x: jax.Array, g: jax.Array) -> dict[str, Any]:
    """All samples at once.

    The offsets along the last spatial axis are laid side by side as features, those along the
    others are separate products: fewer copies of the input than full patches, larger products than
    one for each offset.
    """
    x, g = wide(x), wide(g)
    size, groups = _kernel(module), module.feature_group_count
    x, window = _windows(module, x)
    batch, features = g.shape[0], g.shape[-1]
    last = len(size) - 1
    rows = jnp.stack([x[..., window(j, last), :] for j in range(size[last])], axis=-2)
    g = g.reshape(batch, -1, groups, features // groups)
    products = []
    for start in itertools.product(*(range(n) for n in size[:last])):
        index = (slice(None), *(window(i, axis) for axis, i in enumerate(start)))
        patch = rows[index].reshape(batch, g.shape[1], size[last], groups, -1)
        products.append(jnp.einsum("bsjgc,bsgo->bjcgo", patch, g))
    kernel = jnp.stack(products, axis=1)
    tree = {"kernel": kernel.reshape(batch, *size, -1, features)}
    if module.use_bias:
        tree["bias"] = g.sum(1).reshape(batch, features)
    return tree
