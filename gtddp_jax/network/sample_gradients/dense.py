"""Dense players: `h = x W + b` on inputs [B, d] or [B, ..., d].

The symbols are those of `sample_gradients.base`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from typing_extensions import TypeIs, override

from gtddp_jax.core.trees import expand_per_sample, upcast
from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.network.sample_gradients.base import SampleData, SampleGradients
from gtddp_jax.network.sample_gradients.layer_descriptions import DenseLayer, PlayerLayer


def is_dense(layer: PlayerLayer) -> TypeIs[nn.Dense | DenseLayer]:
    """Whether the layer is a plain dense one: no subclass of `nn.Dense`, no custom product."""
    if isinstance(layer, DenseLayer):
        return True
    return type(layer) is nn.Dense and layer.dot_general is None and layer.dot_general_cls is None


class OuterProductGradients(SampleGradients):
    """A dense layer with one position per sample: `G_i = x_i g_i^T` is stored as its two vectors.

    Args:
        x: inputs [B, d].
        g: output adjoints [B, features].
        use_bias: whether the layer has a bias, whose gradient is g_i.
    """

    def __init__(self, x: jax.Array, g: jax.Array, *, use_bias: bool) -> None:
        self._x, self._g, self._use_bias = upcast(x), upcast(g), use_bias

    def _layer_tree(self, kernel: jax.Array, bias: jax.Array) -> dict[str, jax.Array]:
        return {"kernel": kernel, "bias": bias} if self._use_bias else {"kernel": kernel}

    @override
    def weighted_sum(self, w: PerSample | None) -> Tree:
        g = self._g if w is None else expand_per_sample(w, self._g) * self._g
        return self._layer_tree(self._x.T @ g, g.sum(0))

    @override
    def directional_derivative(self, k: Tree) -> PerSample:
        return _bilinear_form(self._x, _as_layer_tree(k), self._g)

    @override
    def quadratic_form(self, d: Tree) -> PerSample:
        # The square of an outer product is the outer product of the squares.
        x, g = jnp.square(self._x), jnp.square(self._g)
        diagonal = _as_layer_tree(d)
        if diagonal["kernel"].ndim:
            return _bilinear_form(x, diagonal, g)
        # Scalars: sum_pq c x_p^2 g_q^2 is a product of two sums.
        scale = diagonal["kernel"].astype(x.dtype) * x.sum(-1)
        if "bias" in diagonal:
            scale = scale + diagonal["bias"].astype(x.dtype)
        return g.sum(-1) * scale

    @override
    def split_by_sample(self) -> SampleData:
        def gradient(sample: Any) -> Tree:
            x, g = sample
            return self._layer_tree(x[:, None] * g[None], g)

        return (self._x, self._g), gradient


def _as_layer_tree(tree: Any) -> Mapping[str, jax.Array]:
    """A tree like the layer's parameters, `{"kernel": ..., "bias": ...}`, typed as one."""
    return tree


def _bilinear_form(x: jax.Array, matrices: Mapping[str, jax.Array], g: jax.Array) -> PerSample:
    """`g_i . (x_i kernel + bias)` of each sample."""
    outputs = x @ matrices["kernel"].astype(x.dtype)
    if "bias" in matrices:
        outputs = outputs + matrices["bias"].astype(x.dtype)[None]
    return (g * outputs).sum(-1)


def dense_sample_gradients(
    layer: nn.Dense | DenseLayer, x: jax.Array, g: jax.Array
) -> dict[str, jax.Array]:
    """`G_i = sum_s x_is g_is^T` over the positions s of inputs [B, ..., d].

    Args:
        layer: a layer for which `is_dense` holds.
        x: inputs [B, ..., d].
        g: output adjoints [B, ..., features].

    Returns:
        `{"kernel": [B, d, features], "bias": [B, features]}`.
    """
    # All axes between the samples and the features are positions.
    x, g = (upcast(array).reshape(array.shape[0], -1, array.shape[-1]) for array in (x, g))
    gradients = {"kernel": jnp.einsum("bsp,bsq->bpq", x, g)}
    if layer.use_bias:
        gradients["bias"] = g.sum(1)
    return gradients
