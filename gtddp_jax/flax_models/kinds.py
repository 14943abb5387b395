"""Kinds of uses: how the sums over samples are computed where a parameter meets data (DESIGN §6).

| kind       | operations                                 | per-sample gradient                 |
|------------|--------------------------------------------|-------------------------------------|
| `product`  | dot_general, mul, add, sub, div, broadcast | one einsum of data and adjoint      |
| `conv`     | conv_general_dilated                       | sums over kernel offsets, in chunks |
| `lookup`   | rows of a table (embedding)                | scatter; squares by pairs of tokens |
| `generic`  | everything else: scan, while, cond, ...    | one vjp a sample                    |

A kind is one function that recognises it and one class; `KINDS` is asked in order.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.trees import per_sample, wide
from gtddp_jax.flax_models.axes import Axis
from gtddp_jax.flax_models.layers import conv_layer
from gtddp_jax.flax_models.program import Equation
from gtddp_jax.network.program import Act
from gtddp_jax.players import conv
from gtddp_jax.players.layers import ConvLayer

Operands = tuple[jax.Array, ...]
Parts = tuple[Any, Callable[[Any], Operands]]


@dataclasses.dataclass(frozen=True)
class Site:
    """A use with the arrays of one batch.

    Attributes:
        equation: the operation.
        operands: which inputs are values of parameters.
        inputs: all inputs.
        axes: the sample axis of each input, None for parameters and constants of the batch.
        outputs: which outputs are activations.
        adjoints: the gradients of each sample's loss by them.
        out_axes: their sample axes.
        size: B.
        single: the same operation for one sample, or None if it has another form then.
    """

    equation: Equation
    operands: tuple[int, ...]
    inputs: tuple[Any, ...]
    axes: tuple[Axis | None, ...]
    outputs: tuple[int, ...]
    adjoints: tuple[jax.Array, ...]
    out_axes: tuple[Axis, ...]
    size: int
    single: Callable[[], Equation | None]

    @property
    def values(self) -> Operands:
        """The values of parameters."""
        return tuple(self.inputs[i] for i in self.operands)

    def run(self, operands: Operands) -> Operands:
        """The activations for other values of the parameters."""
        inputs = list(self.inputs)
        for i, value in zip(self.operands, operands, strict=True):
            inputs[i] = value
        found = self.equation(*inputs)
        return tuple(found[i] for i in self.outputs)

    @property
    def held(self) -> int:
        """Numbers in the data and the adjoints."""
        data = sum(np.size(x) for x, axis in zip(self.inputs, self.axes, strict=True) if axis)
        return int(data) + sum(g.size for g in self.adjoints)


class UseSums(abc.ABC):
    """The sums over samples of one use; gradients are tuples, one array an operand."""

    kind: str

    def __init__(self, site: Site) -> None:
        self.site = site

    @property
    def positions(self) -> bool:
        """Whether the gradient of one sample is itself a sum over positions."""
        return True

    def weighted(self, w: jax.Array | None) -> Operands:
        """`sum_i w_i G_i`."""
        site = self.site
        scaled = tuple(
            g if w is None else (axis.spread(w, g.ndim) * wide(g)).astype(g.dtype)
            for g, axis in zip(site.adjoints, site.out_axes, strict=True)
        )
        (total,) = jax.vjp(site.run, site.values)[1](scaled)
        return tuple(map(wide, total))

    def dot(self, k: Operands) -> jax.Array:
        """`G_i . k`, [B]."""
        site = self.site
        tangents = tuple(v.astype(p.dtype) for v, p in zip(k, site.values, strict=True))
        _, changes = jax.jvp(site.run, (site.values,), (tangents,))
        parts = [
            (axis.front(wide(g)) * axis.front(wide(c))).sum(range(1, g.ndim + (axis.rows > 1)))
            for g, c, axis in zip(site.adjoints, changes, site.out_axes, strict=True)
        ]
        return jnp.stack(parts).sum(0)

    def square(self, d: jax.Array) -> jax.Array | None:
        """`G_i^T diag(d) G_i` [B] of a use with one operand, if there is a form without G_i."""
        del d
        return None

    @abc.abstractmethod
    def parts(self) -> Parts:
        """Arrays with a leading sample axis; from one sample's part to its gradient."""

    def per_sample(self) -> Operands:
        """The gradients of all samples, [B, ...] each."""
        data, gradient = self.parts()
        return jax.vmap(gradient)(data)


class Generic(UseSums):
    """Any operation: derivatives of the operation itself."""

    kind = "generic"

    def parts(self) -> Parts:
        """See `UseSums`; without a form for one sample, all samples with all weights but one 0."""
        site, single = self.site, self.site.single()
        if single is None:
            return jnp.eye(site.size), self.weighted
        data = {i: a.front(site.inputs[i]) for i, a in enumerate(site.axes) if a is not None}
        adjoints = [a.front(g) for g, a in zip(site.adjoints, site.out_axes, strict=True)]

        def gradient(part: Any) -> Operands:
            own, g = part
            inputs = list(site.inputs)
            for i, x in own.items():
                axis = site.axes[i]
                assert axis is not None
                inputs[i] = axis.back(x[None])
            cotangents = tuple(a.back(v[None]) for v, a in zip(g, site.out_axes, strict=True))
            alone = dataclasses.replace(site, equation=single, inputs=tuple(inputs))
            return jax.vjp(alone.run, site.values)[1](cotangents)[0]

        return (data, adjoints), gradient


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


def _alone(site: Site) -> bool:
    return len(site.operands) == 1 and len(site.outputs) == 1


def dot_general(site: Site) -> UseSums | None:
    """A matrix product of data and a parameter."""
    if site.equation.name != "dot_general" or not _alone(site):
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
    if name not in ELEMENTWISE or not _alone(site):
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
    if site.equation.name != "broadcast_in_dim" or not _alone(site):
        return None
    places = site.equation.params["broadcast_dimensions"]
    out, p = site.out_axes[0], site.values[0]
    if out.axis in places and p.shape[places.index(out.axis)] != 1:
        return None
    ndim = site.adjoints[0].ndim
    to = _lettered(list(range(1, ndim + 1)), out, ndim + 1)
    of = tuple(1 + i for i, length in zip(places, p.shape, strict=True) if length != 1)
    return Product(site, None, (), to, of)


class Conv(UseSums):
    """A convolution on [B, spatial..., features]."""

    kind = "conv"

    def __init__(self, site: Site, layer: ConvLayer) -> None:
        super().__init__(site)
        self.act = Act("", layer, 0, 1)

    def _data(self) -> tuple[jax.Array, jax.Array]:
        return self.site.inputs[0], self.site.adjoints[0]

    def parts(self) -> Parts:
        """See `UseSums`."""

        def gradient(part: Any) -> Operands:
            x, g = part
            found = conv.per_sample_gradients(self.act, x[None], g[None])
            return (found["kernel"][0],)

        return self._data(), gradient

    def per_sample(self) -> Operands:
        """See `UseSums`."""
        found = conv.per_sample_gradients(self.act, *self._data())
        return (found["kernel"],)


def convolution(site: Site) -> UseSums | None:
    """A convolution with features last and no dilation of its input."""
    if site.equation.name != "conv_general_dilated" or not _alone(site) or site.operands != (1,):
        return None
    layer = conv_layer(site.equation, site.inputs[0].ndim, site.inputs[1].shape)
    if layer is None or not site.axes[0] == Axis(0, 1) == site.out_axes[0]:
        return None
    return Conv(site, layer)


class Lookup(UseSums):
    """Rows of a table: `G_i[v] = sum_{s: id_s = v} g_is`, never laid out for all samples."""

    kind = "lookup"

    def __init__(self, site: Site, ids: jax.Array, g: jax.Array) -> None:
        super().__init__(site)
        self._ids, self._g = ids, wide(g)

    def dot(self, k: Operands) -> jax.Array:
        """See `UseSums`."""
        return (jnp.take(wide(k[0]), self._ids, axis=0, mode="clip") * self._g).sum((1, 2))

    def square(self, d: jax.Array) -> jax.Array | None:
        """See `UseSums`: `sum_{s, t: id_s = id_t} g_s . d[id_s] g_t`."""
        rows = wide(d) if d.ndim == 0 else jnp.take(wide(d), self._ids, axis=0, mode="clip")
        gram = jnp.einsum("bsd,btd->bst", self._g * rows, self._g)
        same = self._ids[:, :, None] == self._ids[:, None, :]
        return jnp.where(same, gram, 0).sum((1, 2))

    def parts(self) -> Parts:
        """See `UseSums`."""
        table = jnp.zeros(self.site.values[0].shape, self._g.dtype)

        def gradient(part: Any) -> Operands:
            ids, g = part
            return (table.at[ids].add(g),)

        return (self._ids, self._g), gradient


def lookup(site: Site) -> UseSums | None:
    """An embedding: whole rows, taken by data."""
    if site.equation.name != "gather" or not _alone(site) or site.operands != (0,):
        return None
    table, ids = site.inputs
    numbers = site.equation.params["dimension_numbers"]
    g, axis, out = site.adjoints[0], site.axes[1], site.out_axes[0]
    plain = (
        np.ndim(table) == 2
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and tuple(numbers.offset_dims) == (g.ndim - 1,)
        and not numbers.operand_batching_dims
        and tuple(site.equation.params["slice_sizes"]) == (1, table.shape[1])
        and axis == out
    )
    if not plain or axis is None:
        return None
    size = site.size
    rows = axis.front(g).reshape(size, -1, g.shape[-1])
    return Lookup(site, axis.front(ids).reshape(size, -1), rows)


KINDS: tuple[Callable[[Site], UseSums | None], ...] = (
    dot_general,
    elementwise,
    broadcast,
    convolution,
    lookup,
)
"""All kinds; what none of them recognises is `Generic`."""


def sums_of(site: Site) -> UseSums:
    """The sums of a use, by the first kind that recognises it."""
    for kind in KINDS:
        found = kind(site)
        if found is not None:
            return found
    return Generic(site)
