"""From uses to players: the per-sample gradients of a player's parameters.

| player                                         | how                                        |
|------------------------------------------------|--------------------------------------------|
| each parameter has one use, seen as it is      | sums at the use, laid out as the parameter |
| shared, or computed with before it meets data  | the uses together, through the derivative  |
| (tied weights, BatchNorm's scale, weight norm) | of what is made of the parameters          |
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import wide
from gtddp_jax.flax_models.kinds import Operands, UseSums
from gtddp_jax.flax_models.views import View
from gtddp_jax.players.base import Kept, SampleGradients, Tree
from gtddp_jax.players.recomputed import chunk_size
from gtddp_jax.players.rules import ALWAYS_KEPT

Part = tuple[UseSums, View]


def use_rule(use: UseSums, *, feedback: bool) -> str:
    """The cost rule of a parameter with one use, as `gtddp_jax.players.rules` has them."""
    count = sum(p.size for p in use.site.values)
    if use.kind == "product" and not use.positions:
        return "factored"
    if use.kind == "lookup":
        return "recomputed"
    return _kept_or_not(use.site.size * count, use.site.held, feedback=feedback)


def joint_rule(uses: Sequence[UseSums], count: int, *, feedback: bool) -> str:
    """The cost rule of parameters that are shared or computed with."""
    held = sum(use.site.held for use in uses)
    return _kept_or_not(uses[0].site.size * count, held, feedback=feedback) if uses else "kept"


def _kept_or_not(numbers: int, held: int, *, feedback: bool) -> str:
    return "kept" if feedback and numbers <= max(ALWAYS_KEPT, held) else "recomputed"


class Seen(SampleGradients):
    """Players whose parameters each have one use, of which they are a view.

    Args:
        parts: `{key: (use, view)}`.
        feedback: whether more than one sum will be asked for.
    """

    def __init__(self, parts: Mapping[str, Part], *, feedback: bool) -> None:
        self._parts = dict(parts)
        self._kept = {
            key: Kept(use.per_sample()[0])
            for key, (use, _) in parts.items()
            if use_rule(use, feedback=feedback) == "kept"
        }

    def weighted(self, w: jax.Array | None) -> Tree:
        """See `SampleGradients`."""
        return {
            key: view.restored(
                self._kept[key].weighted(w) if key in self._kept else use.weighted(w)[0]
            )
            for key, (use, view) in self._parts.items()
        }

    def dot(self, k: Tree) -> jax.Array:
        """See `SampleGradients`."""
        found = []
        for key, (use, view) in self._parts.items():
            change = view.seen(k[key])
            found.append(self._kept[key].dot(change) if key in self._kept else use.dot((change,)))
        return jnp.stack(found).sum(0)

    def square(self, d: Tree) -> jax.Array:
        """See `SampleGradients`."""
        return jnp.stack([self._square(key, d[key]) for key in self._parts]).sum(0)

    def _square(self, key: str, d: jax.Array) -> jax.Array:
        use, view = self._parts[key]
        d = view.seen(d)
        if key in self._kept:
            return self._kept[key].square(d)
        found = use.square(d)
        if found is not None:
            return found
        data, gradient = use.parts()
        return _squares(data, lambda part: gradient(part)[0], d, use.site.held)

    def parts(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        """See `SampleGradients`."""
        found = {key: use.parts() for key, (use, _) in self._parts.items()}

        def gradient(part: Tree) -> Tree:
            return {
                key: view.restored(wide(found[key][1](part[key])[0]))
                for key, (_, view) in self._parts.items()
            }

        return {key: data for key, (data, _) in found.items()}, gradient


class Joint(SampleGradients):
    """Players whose parameters are shared between uses or computed with before.

    Args:
        uses: the uses.
        derive: from the player's parameters to the operands of all uses, one after the other.
        params: the player's parameters.
        feedback: whether more than one sum will be asked for.
    """

    def __init__(
        self,
        uses: Sequence[UseSums],
        derive: Callable[[Tree], list[jax.Array]],
        params: Tree,
        *,
        feedback: bool,
    ) -> None:
        self._uses, self._derive, self._params = uses, derive, params
        self._count = sum(leaf.size for leaf in jax.tree.leaves(params))
        self._operands, self._pull = jax.vjp(derive, params)
        keep = joint_rule(uses, self._count, feedback=feedback) == "kept"
        self._kept = Kept(self._gradients()) if keep else None

    def _restored(self, totals: Sequence[Operands]) -> Tree:
        flat = [total for operands in totals for total in operands]
        like = zip(flat, self._operands, strict=True)
        (tree,) = self._pull([total.astype(p.dtype) for total, p in like])
        return jax.tree.map(wide, tree)

    def _gradients(self) -> Tree:
        return jax.vmap(self._restored)([use.per_sample() for use in self._uses])

    def weighted(self, w: jax.Array | None) -> Tree:
        """See `SampleGradients`."""
        if self._kept is not None:
            return self._kept.weighted(w)
        return self._restored([use.weighted(w) for use in self._uses])

    def dot(self, k: Tree) -> jax.Array:
        """See `SampleGradients`."""
        if self._kept is not None:
            return self._kept.dot(k)
        k = jax.tree.map(lambda v, p: v.astype(p.dtype), k, self._params)
        _, changes = jax.jvp(self._derive, (self._params,), (k,))
        rest, found = list(changes), []
        for use in self._uses:
            n = len(use.site.operands)
            mine, rest = rest[:n], rest[n:]
            found.append(use.dot(tuple(mine)))
        return jnp.stack(found).sum(0)

    def square(self, d: Tree) -> jax.Array:
        """See `SampleGradients`."""
        if self._kept is not None:
            return self._kept.square(d)
        data, gradient = self.parts()
        return _squares(data, gradient, d, sum(use.site.held for use in self._uses))

    def parts(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        """See `SampleGradients`."""
        found = [use.parts() for use in self._uses]

        def gradient(part: Sequence[Any]) -> Tree:
            return self._restored([f(data) for (_, f), data in zip(found, part, strict=True)])

        return [data for data, _ in found], gradient


def _squares(data: Tree, gradient: Callable[[Any], Tree], d: Tree, held: int) -> jax.Array:
    """`G_i^T diag(d) G_i`, with the gradients of a few samples held at a time."""

    def one(part: Any) -> jax.Array:
        return Kept(jax.tree.map(lambda g: g[None], gradient(part))).square(d)[0]

    first = jax.eval_shape(gradient, jax.tree.map(lambda v: v[0], data))
    count = sum(leaf.size for leaf in jax.tree.leaves(first))
    chunk = chunk_size(count, max(ALWAYS_KEPT, held))
    return jax.lax.map(one, data, batch_size=chunk)


class Idle(SampleGradients):
    """Parameters without influence on the outputs: all gradients are zero."""

    def __init__(self, params: Tree, size: int, dtype: Any) -> None:
        self._params, self._zeros = params, jnp.zeros((size,), dtype)

    def weighted(self, w: jax.Array | None) -> Tree:
        """See `SampleGradients`."""
        del w
        return jax.tree.map(lambda p: jnp.zeros_like(wide(p)), self._params)

    def dot(self, k: Tree) -> jax.Array:
        """See `SampleGradients`."""
        del k
        return self._zeros

    def square(self, d: Tree) -> jax.Array:
        """See `SampleGradients`."""
        del d
        return self._zeros

    def parts(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        """See `SampleGradients`."""
        return self._zeros, lambda part: self.weighted(part)
