"""Per-sample gradients that are not stored: every sum is a derivative of the layer.

The symbols are those of `sample_gradients.base`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from typing_extensions import override

from gtddp_jax.core.reverse_rules import directional_derivative
from gtddp_jax.core.samples import to_varying, varying_axes
from gtddp_jax.core.trees import expand_per_sample, upcast
from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.network.sample_gradients.base import SampleData, SampleGradients, StoredGradients

ApplyFn: TypeAlias = Callable[[Tree, jax.Array], jax.Array]
"""A player's layer as a function, `apply(params, x) -> h`."""
SampleGradientFn: TypeAlias = Callable[[jax.Array, jax.Array], Tree]
"""From inputs and output adjoints to G_i, leaves [B, ...]."""


class RecomputedGradients(SampleGradients):
    """Weighted sums by one vjp and directional derivatives by one jvp of the layer.

    Args:
        apply: the layer.
        params: the player's parameters.
        x: its inputs [B, ...].
        g: the adjoints of its outputs [B, ...].
        sample_gradients: computes G_i of `chunk` samples at a time, for quadratic forms.
        chunk: the number of samples whose gradients may be held at once.
    """

    def __init__(
        self,
        apply: ApplyFn,
        params: Tree,
        x: jax.Array,
        g: jax.Array,
        sample_gradients: SampleGradientFn,
        chunk: int,
    ) -> None:
        self._apply, self._params, self._x, self._g = apply, params, x, g
        self._sample_gradients, self._chunk = sample_gradients, chunk

    def _outputs(self, params: Tree) -> jax.Array:
        return self._apply(params, self._x)

    @override
    def weighted_sum(self, w: PerSample | None) -> Tree:
        g = self._g
        if w is not None:
            # Weighted in float32; a vjp takes cotangents in the dtype of the outputs.
            g = (expand_per_sample(w, g) * upcast(g)).astype(g.dtype)
        (total,) = jax.vjp(self._outputs, self._params)[1](g)
        return jax.tree.map(upcast, total)

    @override
    def directional_derivative(self, k: Tree) -> PerSample:
        tangents = jax.tree.map(_as_tangent, k, self._params)
        change: Any = directional_derivative(self._outputs, (self._params,), (tangents,))
        return (upcast(self._g) * upcast(change)).sum(range(1, self._g.ndim))

    @override
    def quadratic_form(self, d: Tree) -> PerSample:
        data, gradient = self.split_by_sample()

        # Quadratic forms have no derivative form, so gradients are made, a chunk at a time.
        def of_sample(sample: Tree) -> jax.Array:
            batch_of_one = jax.tree.map(lambda leaf: leaf[None], gradient(sample))
            return StoredGradients(batch_of_one).quadratic_form(d)[0]

        return jax.lax.map(of_sample, data, batch_size=self._chunk)

    @override
    def split_by_sample(self) -> SampleData:
        def gradient(sample: Any) -> Tree:
            x, g = sample
            return jax.tree.map(lambda leaf: leaf[0], self._sample_gradients(x[None], g[None]))

        return (self._x, self._g), gradient


def _as_tangent(change: jax.Array, param: jax.Array) -> jax.Array:
    """`change` as a tangent of `param`: of its dtype, and varying over the same mapped axes."""
    return to_varying(change.astype(param.dtype), varying_axes(param))


def gradients_by_vjp(apply: ApplyFn, params: Tree) -> SampleGradientFn:
    """Per-sample gradients of any layer: one vjp per sample."""

    def sample_gradients(x: jax.Array, g: jax.Array) -> Tree:
        def of_sample(x: jax.Array, g: jax.Array) -> Tree:
            # A batch of one, because modules take batches.
            _, pullback = jax.vjp(lambda params: apply(params, x[None]), params)
            return pullback(g[None])[0]

        return jax.vmap(of_sample)(x, g)

    return sample_gradients


def chunk_size(count: int, limit: int) -> int:
    """The number of samples whose gradients of `count` numbers each fit into `limit` numbers."""
    return max(1, limit // max(count, 1))
