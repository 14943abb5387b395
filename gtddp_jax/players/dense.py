"""Dense players: `h = x W + b` on [B, d] or [B, ..., d]."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import per_sample, wide
from gtddp_jax.network.program import Act
from gtddp_jax.players.base import SampleGradients, Tree
from gtddp_jax.players.layers import DenseLayer


def is_dense(module: nn.Module | DenseLayer) -> bool:
    """Whether the module is a plain `nn.Dense` (not a subclass, no product of its own)."""
    if isinstance(module, DenseLayer):
        return True
    return (
        type(module) is nn.Dense and module.dot_general is None and module.dot_general_cls is None
    )


class Factored(SampleGradients):
    """One position a sample: `G_i = x_i g_i^T` stays a pair of vectors."""

    def __init__(self, x: jax.Array, g: jax.Array, use_bias: bool) -> None:
        self._x, self._g, self._use_bias = wide(x), wide(g), use_bias

    def _tree(self, kernel: jax.Array, bias: jax.Array) -> Tree:
        return {"kernel": kernel, "bias": bias} if self._use_bias else {"kernel": kernel}

    def weighted(self, w: jax.Array | None) -> Tree:
        """See `SampleGradients`."""
        g = self._g if w is None else per_sample(w, self._g) * self._g
        return self._tree(self._x.T @ g, g.sum(0))

    def dot(self, k: Tree) -> jax.Array:
        """See `SampleGradients`."""
        return _bilinear(self._x, k, self._g)

    def square(self, d: Tree) -> jax.Array:
        """See `SampleGradients`."""
        x, g = jnp.square(self._x), jnp.square(self._g)
        if d["kernel"].ndim:
            return _bilinear(x, d, g)
        size = d["kernel"].astype(x.dtype) * x.sum(-1)
        return g.sum(-1) * (size + d["bias"].astype(x.dtype) if "bias" in d else size)

    def parts(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        """See `SampleGradients`."""

        def gradient(part: tuple[jax.Array, jax.Array]) -> Tree:
            x, g = part
            return self._tree(x[:, None] * g[None], g)

        return (self._x, self._g), gradient


def _bilinear(x: jax.Array, k: Tree, g: jax.Array) -> jax.Array:
    change = x @ k["kernel"].astype(x.dtype)
    if "bias" in k:
        change = change + k["bias"].astype(x.dtype)[None]
    return (g * change).sum(-1)


def per_sample_gradients(act: Act, x: jax.Array, g: jax.Array) -> dict[str, Any]:
    """`G_i = sum_s x_is g_is^T` over the positions s of [B, ..., d] inputs."""
    x, g = (wide(v).reshape(v.shape[0], -1, v.shape[-1]) for v in (x, g))
    tree = {"kernel": jnp.einsum("bsp,bsq->bpq", x, g)}
    if act.module.use_bias:
        tree["bias"] = g.sum(1)
    return tree
