"""Convolutional players: `h[s] = sum_offset x[s + offset] W[offset]` over output positions s.

The symbols are those of `sample_gradients.base`.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from typing_extensions import TypeIs

from gtddp_jax.core.trees import upcast
from gtddp_jax.core.xla import conv_chunk_size
from gtddp_jax.network.sample_gradients.layer_descriptions import ConvLayer, PlayerLayer

AnyConv: TypeAlias = nn.Conv | ConvLayer


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """An option of a convolution, given as one number or per spatial axis, per spatial axis."""
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _kernel_size(layer: AnyConv) -> tuple[int, ...]:
    size = layer.kernel_size
    return (size,) if isinstance(size, int) else tuple(size)


def _strides(layer: AnyConv) -> tuple[int, ...]:
    return _per_axis(layer.strides or 1, len(_kernel_size(layer)))


def _dilation(layer: AnyConv) -> tuple[int, ...]:
    return _per_axis(layer.kernel_dilation or 1, len(_kernel_size(layer)))


def _extents(layer: AnyConv) -> list[int]:
    """How far the dilated kernel reaches along each spatial axis."""
    sizes = zip(_kernel_size(layer), _dilation(layer), strict=True)
    return [(size - 1) * dilation + 1 for size, dilation in sizes]


def _zero_padding(layer: AnyConv, spatial: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """Zeros before and after each spatial axis; None for other modes of padding (circular, ...)."""
    # Flax accepts a mode by name, one number, numbers per axis, or pairs per axis.
    padding: Any = layer.padding
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            return None
        pads = lax.padtype_to_pads(spatial, _extents(layer), _strides(layer), padding)
        return [(before, after) for before, after in pads]
    if isinstance(padding, int):
        padding = (padding,) * len(_kernel_size(layer))
    return [(pad, pad) if isinstance(pad, int) else (pad[0], pad[1]) for pad in padding]


def is_conv(layer: PlayerLayer, shape: tuple[int, ...]) -> TypeIs[AnyConv]:
    """Whether the layer is a plain convolution with zero padding of [B, spatial..., features]."""
    if isinstance(layer, ConvLayer):
        return len(shape) == len(layer.kernel_size) + 2
    if type(layer) is not nn.Conv:
        return False
    size = _kernel_size(layer)
    return (
        len(shape) == len(size) + 2
        # Each of these options changes the product that is computed.
        and layer.mask is None
        and layer.conv_general_dilated is None
        and layer.conv_general_dilated_cls is None
        and all(dilation == 1 for dilation in _per_axis(layer.input_dilation or 1, len(size)))
        and _zero_padding(layer, shape[1:-1]) is not None
    )


def conv_sample_gradients(layer: AnyConv, x: jax.Array, g: jax.Array) -> dict[str, jax.Array]:
    """`G_i[offset] = sum_s x_i[s + offset] g_i[s]^T` for every kernel offset.

    Args:
        layer: a layer for which `is_conv` holds.
        x: inputs [B, spatial..., features].
        g: output adjoints [B, spatial..., features].

    Returns:
        `{"kernel": [B, *kernel, features in a group, features], "bias": [B, features]}`.
    """
    # Each output position has a patch of kernel size times input features.
    positions = math.prod(g.shape[1:-1])
    chunk = conv_chunk_size(positions * math.prod(_kernel_size(layer)) * x.shape[-1])
    if chunk >= x.shape[0]:
        # A map of one chunk would only add a loop.
        return _batch_gradients(layer, x, g)

    def of_sample(sample: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        x, g = sample
        return jax.tree.map(lambda leaf: leaf[0], _batch_gradients(layer, x[None], g[None]))

    return lax.map(of_sample, (x, g), batch_size=chunk)


def _padded_windows(layer: AnyConv, x: jax.Array) -> tuple[jax.Array, Callable[[int, int], slice]]:
    """The padded inputs, and a function that selects what one kernel offset sees of an axis.

    The function maps an offset and a spatial axis to a slice, one element per output position.
    """
    strides, dilation = _strides(layer), _dilation(layer)
    pads = _zero_padding(layer, x.shape[1:-1])
    assert pads is not None
    # After explicit padding, every offset sees a plain strided slice.
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    # The extent of the dilated kernel must fit; what is left over at the end is not read.
    output_sizes = [
        (size - extent) // stride + 1
        for size, extent, stride in zip(x.shape[1:-1], _extents(layer), strides, strict=True)
    ]

    def window(offset: int, axis: int) -> slice:
        first = offset * dilation[axis]
        return slice(first, first + (output_sizes[axis] - 1) * strides[axis] + 1, strides[axis])

    return x, window


def extract_patches(layer: AnyConv, x: jax.Array) -> jax.Array:
    """The inputs of each output position: [B, *output positions, kernel offsets, features]."""
    x, window = _padded_windows(layer, x)
    offsets = itertools.product(*(range(size) for size in _kernel_size(layer)))
    # One strided slice of the input per offset, instead of one gather per position.
    shifted = [
        x[(slice(None), *(window(start, axis) for axis, start in enumerate(offset)))]
        for offset in offsets
    ]
    return jnp.stack(shifted, axis=-2)


def _batch_gradients(layer: AnyConv, x: jax.Array, g: jax.Array) -> dict[str, jax.Array]:
    """`conv_sample_gradients` of all samples at once."""
    x, g = upcast(x), upcast(g)
    size, groups = _kernel_size(layer), layer.feature_group_count
    x, window = _padded_windows(layer, x)
    batch, features = g.shape[0], g.shape[-1]
    last = len(size) - 1
    # Offsets along the last spatial axis are stacked as features; those along the other axes give
    # one product each. Full patches would need more copies of the input, and one product per
    # offset would be smaller and thus slower.
    rows = jnp.stack([x[..., window(offset, last), :] for offset in range(size[last])], axis=-2)
    # Output features are ordered by group, input features too.
    g = g.reshape(batch, -1, groups, features // groups)
    products = []
    for starts in itertools.product(*(range(n) for n in size[:last])):
        index = (slice(None), *(window(start, axis) for axis, start in enumerate(starts)))
        patch = rows[index].reshape(batch, g.shape[1], size[last], groups, -1)
        products.append(jnp.einsum("bsjgc,bsgo->bjcgo", patch, g))
    kernel = jnp.stack(products, axis=1)
    gradients = {"kernel": kernel.reshape(batch, *size, -1, features)}
    if layer.use_bias:
        gradients["bias"] = g.sum(1).reshape(batch, features)
    return gradients
