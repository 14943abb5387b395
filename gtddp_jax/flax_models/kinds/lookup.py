"""Tables of which data picks rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.trees import wide
from gtddp_jax.flax_models.kinds.base import Operands, Parts, Site, UseSums


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
    if site.equation.name != "gather" or not site.simple or site.operands != (0,):
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
