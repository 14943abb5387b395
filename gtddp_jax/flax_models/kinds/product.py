"""Products and sums of data and parameters: every sum over samples is an einsum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.trees import per_sample, wide
from gtddp_jax.flax_models.axes import Axis
from gtddp_jax.flax_models.kinds.base import Operands, Parts, Site, UseSums

Letters = tuple[int, ...]
SAMPLE = 0


class Product(UseSums):
    """Bilinear in data and parameters: every sum is an einsum.

    Axes are named by integers; 0 is the sample axis. An axis that neither sample nor parameter
    has is summed in the gradient of one sample: a position.
    """

    kind = "product"

    def __init__(
        self, site: Site, x: jax.Array | None, at: Letters, to: Letters, of: Letters, sign: int = 1
    ) -> None:
        super().__init__(site)
        ((g,), (axis,)) = site.adjoints, site.out_axes
        self._g, self._x = axis.front(wide(g)) * sign, None if x is None else wide(x)
        self._at, self._to, self._of = at, to, of

    @property
    def positions(self) -> bool:
        """See `UseSums`."""
        return bool({*self._at, *self._to} - {SAMPLE, *self._of})

    def _sum(self, x: jax.Array | None, g: jax.Array, out: Letters) -> jax.Array:
        if x is None:
            return jnp.einsum(g, self._to, out)
        return jnp.einsum(x, self._at, g, self._to, out)

    def _laid(self, total: jax.Array, lead: tuple[int, ...] = ()) -> jax.Array:
        return total.reshape(*lead, *self.site.values[0].shape)

    def _flat(self, k: jax.Array) -> jax.Array:
        """A change of the parameters without axes of length 1."""
        shape = self.site.values[0].shape
        return k.reshape([n for n in shape if n != 1])

    def weighted(self, w: jax.Array | None) -> Operands:
        """See `UseSums`."""
        g = self._g if w is None else per_sample(w, self._g) * self._g
        return (self._laid(self._sum(self._x, g, self._of)),)

    def dot(self, k: Operands) -> jax.Array:
        """See `UseSums`."""
        change = self._flat(wide(k[0]))
        if self._x is None:
            return jnp.einsum(self._g, self._to, change, self._of, (SAMPLE,))
        known = {*self._at, *self._of}
        middle = tuple(i for i in self._to if i in known)
        moved = jnp.einsum(self._x, self._at, change, self._of, middle)
        return jnp.einsum(self._g, self._to, moved, middle, (SAMPLE,))

    def square(self, d: jax.Array) -> jax.Array | None:
        """See `UseSums`."""
        if self.positions:
            return None
        x = None if self._x is None else jnp.square(self._x)
        g, d = jnp.square(self._g), wide(d)
        if d.ndim == 0 and self.site.values[0].ndim:
            return d * self._sum(x, g, (SAMPLE,))
        d = self._flat(d)
        if x is None:
            return jnp.einsum(g, self._to, d, self._of, (SAMPLE,))
        middle = tuple(i for i in self._to if i in {*self._at, *self._of})
        return jnp.einsum(g, self._to, jnp.einsum(x, self._at, d, self._of, middle), middle, (0,))

    def parts(self) -> Parts:
        """See `UseSums`."""
        at, to = (tuple(i for i in letters if i != SAMPLE) for letters in (self._at, self._to))

        def gradient(part: Any) -> Operands:
            x, g = part
            total = jnp.einsum(g, to, self._of) if x is None else jnp.einsum(x, at, g, to, self._of)
            return (self._laid(total),)

        return (self._x, self._g), gradient

    def per_sample(self) -> Operands:
        """See `UseSums`."""
        total = self._sum(self._x, self._g, (SAMPLE, *self._of))
        return (self._laid(total, (self.site.size,)),)


def _lettered(letters: list[int], axis: Axis, rows: int) -> Letters:
    """The letters of `axis.front(x)`: the sample axis first, then its rows."""
    rest = [n for i, n in enumerate(letters) if i != axis.axis]
    return (SAMPLE, *((rows,) if axis.rows > 1 else ()), *rest)


def dot_general(site: Site) -> UseSums | None:
    """A matrix product of data and a parameter."""
    if site.equation.name != "dot_general" or not site.simple:
        return None
    (mine,) = site.operands
    other = 1 - mine
    axis = site.axes[other]
    if axis is None:
        return None
    contract, batch = site.equation.params["dimension_numbers"]
    shapes = [np.shape(v) for v in site.inputs]
    names: list[list[int]] = [[-1] * len(s) for s in shapes]
    fresh = iter(range(1, 1000))
    for pairs in (batch, contract):
        for i, j in zip(*pairs, strict=True):
            names[0][i] = names[1][j] = next(fresh)
    for side in names:
        for i, n in enumerate(side):
            if n < 0:
                side[i] = next(fresh)
    out = [names[0][i] for i in batch[0]]
    for side, shape, used in zip(names, shapes, zip(contract, batch, strict=True), strict=True):
        taken = {*used[0], *used[1]}
        out += [side[i] for i in range(len(shape)) if i not in taken]
    rows = next(fresh)
    p = [n for n, length in zip(names[mine], shapes[mine], strict=True) if length != 1]
    if names[other][axis.axis] in p or out[site.out_axes[0].axis] != names[other][axis.axis]:
        return None
    at = _lettered(names[other], axis, rows)
    to = _lettered(out, site.out_axes[0], rows)
    return Product(site, axis.front(site.inputs[other]), at, to, tuple(p))


ELEMENTWISE = {"add": 1, "add_any": 1, "sub": -1, "mul": 1, "div": 1}


def elementwise(site: Site) -> UseSums | None:
    """A parameter added to data, or multiplied with it, the same in all samples."""
    name = site.equation.name
    if name not in ELEMENTWISE or not site.simple:
        return None
    (mine,) = site.operands
    p, x = site.values[0], site.inputs[1 - mine]
    axis, out = site.axes[1 - mine], site.out_axes[0]
    ndim = site.adjoints[0].ndim
    if np.ndim(p) not in (0, ndim) or (np.ndim(p) and p.shape[out.axis] != 1):
        return None
    names = list(range(1, ndim + 1))
    to = _lettered(names, out, ndim + 1)
    of = tuple(n for n, length in zip(names, np.shape(p), strict=False) if length != 1)
    if name in ("add", "add_any", "sub"):
        return Product(site, None, (), to, of, -1 if name == "sub" and mine == 1 else 1)
    if axis is None or axis.axis != out.axis or axis.rows != out.rows or np.ndim(x) != ndim:
        return None
    if name == "div":
        x = 1 / x if mine == 0 else -x / jnp.square(p.reshape(p.shape or (1,) * ndim))
    front = axis.front(x)
    at = _lettered(names, axis, ndim + 1)
    kept = [i for i, n in enumerate(front.shape) if i == 0 or n != 1]
    front = front.reshape([front.shape[i] for i in kept])
    return Product(site, front, tuple(at[i] for i in kept), to, of)


def broadcast(site: Site) -> UseSums | None:
    """A parameter repeated for every sample (a class token, an initial state)."""
    if site.equation.name != "broadcast_in_dim" or not site.simple:
        return None
    places = site.equation.params["broadcast_dimensions"]
    out, p = site.out_axes[0], site.values[0]
    if out.axis in places and p.shape[places.index(out.axis)] != 1:
        return None
    ndim = site.adjoints[0].ndim
    to = _lettered(list(range(1, ndim + 1)), out, ndim + 1)
    of = tuple(1 + i for i, length in zip(places, p.shape, strict=True) if length != 1)
    return Product(site, None, (), to, of)
