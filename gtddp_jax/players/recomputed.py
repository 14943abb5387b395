"""Per-sample gradients that are never held: every sum is a derivative of the module (DESIGN §6)."""

from collections.abc import Callable

import jax

from gtddp_jax.core.samples import spread, varying
from gtddp_jax.core.trees import per_sample, wide
from gtddp_jax.network.program import Act
from gtddp_jax.players.base import Kept, SampleGradients, Tree

PerSample = Callable[[jax.Array, jax.Array], Tree]


class Recomputed(SampleGradients):
    """Weighted weight-gradients by one vjp, directional derivatives by one jvp.

    Args:
        act: the player's move.
        params: the player's parameters.
        x: its inputs [B, ...].
        g: the adjoints of its outputs [B, ...].
        gradients: `(x, g) -> G_i`, used on `chunk` samples at a time for quadratic forms.
        chunk: the number of samples whose gradients may be held at once.
    """

    def __init__(
        self, act: Act, params: Tree, x: jax.Array, g: jax.Array, gradients: PerSample, chunk: int
    ) -> None:
        self._act, self._params, self._x, self._g = act, params, x, g
        self._gradients, self._chunk = gradients, chunk

    def _outputs(self, params: Tree) -> jax.Array:
        return self._act({self._act.name: params}, self._x)

    def weighted(self, w: jax.Array | None) -> Tree:
        """See `SampleGradients`."""
        g = self._g if w is None else (per_sample(w, self._g) * wide(self._g)).astype(self._g.dtype)
        (total,) = jax.vjp(self._outputs, self._params)[1](g)
        return jax.tree.map(wide, total)

    def dot(self, k: Tree) -> jax.Array:
        """See `SampleGradients`."""
        k = jax.tree.map(_tangent, k, self._params)
        _, change = jax.jvp(self._outputs, (self._params,), (k,))
        return (wide(self._g) * wide(change)).sum(range(1, self._g.ndim))

    def square(self, d: Tree) -> jax.Array:
        """See `SampleGradients`."""
        data, gradient = self.parts()

        def one(part: Tree) -> jax.Array:
            return Kept(jax.tree.map(lambda v: v[None], gradient(part))).square(d)[0]

        return jax.lax.map(one, data, batch_size=self._chunk)

    def parts(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        """See `SampleGradients`."""

        def gradient(part: tuple[jax.Array, jax.Array]) -> Tree:
            x, g = part
            return jax.tree.map(lambda v: v[0], self._gradients(x[None], g[None]))

        return (self._x, self._g), gradient


def _tangent(v: jax.Array, p: jax.Array) -> jax.Array:
    """`v` as a tangent of `p`: of its dtype, and a local copy where the parameters are copies."""
    return spread(v.astype(p.dtype), varying(p))


def by_vjp(act: Act, params: Tree) -> PerSample:
    """Per-sample gradients of any module: a vjp for each sample."""

    def gradients(x: jax.Array, g: jax.Array) -> Tree:
        def one(x: jax.Array, g: jax.Array) -> Tree:
            (total,) = jax.vjp(lambda p: act({act.name: p}, x[None]), params)[1](g[None])
            return total

        return jax.vmap(one)(x, g)

    return gradients


def chunk_size(count: int, limit: int) -> int:
    """How many samples' gradients of `count` numbers each may be held at once."""
    return max(1, limit // max(count, 1))
