"""Tables of which data selects rows.

| symbol | meaning                            | shape     |
|--------|------------------------------------|-----------|
| `ids`  | the rows that each position selects | [B, T]    |
| `g`    | adjoints of the selected rows       | [B, T, n] |

`k` and `d` are as in `gtddp_jax.tracing.ops.base`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from gtddp_jax.core.trees import upcast
from gtddp_jax.tracing.ops.base import BoundUse, Operands, SplitUse, UseGradients


class LookupUse(UseGradients):
    """Rows of a table: `G_i[v] = sum_{s: id_s = v} g_is`, without a table for each sample.

    Args:
        use: the use.
        ids: the selected rows.
        g: their adjoints.
    """

    kind = "lookup"

    def __init__(self, use: BoundUse, ids: jax.Array, g: jax.Array) -> None:
        super().__init__(use)
        self._ids, self._g = ids, upcast(g)

    def _select_rows(self, table: jax.Array) -> jax.Array:
        return jnp.take(upcast(table), self._ids, axis=0, mode="clip")

    @override
    def directional_derivative(self, k: Operands) -> jax.Array:
        return (self._select_rows(k[0]) * self._g).sum((1, 2))

    @override
    def quadratic_form(self, d: jax.Array) -> jax.Array | None:
        # G_i adds up the adjoints of equal ids, so its square is a sum over pairs of them:
        # sum_{s, t: id_s = id_t} g_s . d[id_s] g_t.
        diagonal = upcast(d) if d.ndim == 0 else self._select_rows(d)
        gram = jnp.einsum("bsd,btd->bst", self._g * diagonal, self._g)
        same_row = self._ids[:, :, None] == self._ids[:, None, :]
        return jnp.where(same_row, gram, 0).sum((1, 2))

    @override
    def split_by_sample(self) -> SplitUse:
        # Repeated ids add up, as the derivative of a gather does.
        zeros = jnp.zeros(self.use.operands[0].shape, self._g.dtype)

        def gradient(sample: tuple[jax.Array, jax.Array]) -> Operands:
            ids, g = sample
            return (zeros.at[ids].add(g),)

        return (self._ids, self._g), gradient


def match_lookup(use: BoundUse) -> UseGradients | None:
    """Recognises an embedding: a gather of whole rows of a table."""
    if use.equation.name != "gather" or not use.is_unary or use.operand_positions != (0,):
        return None
    table, ids = use.inputs
    axes = use.equation.params["dimension_numbers"]
    g, ids_axis, output_axis = use.adjoints[0], use.input_axes[1], use.output_axes[0]
    # Indices select along the first axis of the table and take rows as they are.
    selects_rows = (
        np.ndim(table) == 2
        and tuple(axes.collapsed_slice_dims) == (0,)
        and tuple(axes.start_index_map) == (0,)
        and tuple(axes.offset_dims) == (g.ndim - 1,)
        and not axes.operand_batching_dims
        and tuple(use.equation.params["slice_sizes"]) == (1, table.shape[1])
        and ids_axis == output_axis
    )
    if not selects_rows or ids_axis is None:
        return None
    # All positions of a sample become one axis.
    rows = ids_axis.to_front(g).reshape(use.batch_size, -1, g.shape[-1])
    return LookupUse(use, ids_axis.to_front(ids).reshape(use.batch_size, -1), rows)
