"""Derivatives of the outputs of all samples, as rows of one matrix J.

| symbol | meaning                                            | shape             |
|--------|----------------------------------------------------|-------------------|
| m      | number of rows, `sum_k N_k R_k`                    |                   |
| p      | number of parameters                               |                   |
| J      | derivative of the outputs by the parameters        | [m, p], in parts  |
| M      | metric, a positive diagonal                        | tree, or None     |
| K      | Gram matrix `J M^-1 J^T`                           | [m, m]            |

J is made in chunks of samples and never kept. With a mapped axis over devices each of them makes
the rows of its own samples and its part of K, and receives the rows of the others chunk by chunk.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.samples import to_varying
from gtddp_jax.core.types import Tree
from gtddp_jax.joint.objective import Blocks, Objective, TermOutputs
from gtddp_jax.joint.outer_rows import (
    Rows,
    row_count,
    row_matrix,
    rows_product,
    squared_lengths,
    symmetric_product,
)
from gtddp_jax.joint.read_rows import AdjointRows

_DirectionalDerivative: TypeAlias = Callable[[Callable[[Tree], jax.Array], Tree, Tree], jax.Array]

NO_FORWARD_MODE = (
    "joint: term {name} has no derivative by forward mode, because its residual uses "
    "jax.custom_vjp, and derivatives along a step are needed for momentum, acceleration, "
    "side='primal' and side='matrix_free'. Define the rule by jax.custom_jvp, or use "
    "joint(..., side='dual') without momentum and acceleration."
)


def flatten_outputs(outputs: TermOutputs, dtype: Any) -> Float[Array, " m"]:
    """All outputs as one vector, in the order of the terms."""
    return jnp.concatenate([value.astype(dtype).ravel() for value in outputs.values()])


def unflatten_outputs(vector: Float[Array, " m"], like: TermOutputs) -> TermOutputs:
    """The inverse of `flatten_outputs`."""
    found, start = {}, 0
    for name, value in like.items():
        found[name] = vector[start : start + value.size].reshape(value.shape)
        start += value.size
    return found


def _derivative_along(
    function: Callable[[Tree], jax.Array], params: Tree, direction: Tree
) -> jax.Array:
    return jax.jvp(function, (params,), (direction,))[1]


def _second_derivative_along(
    function: Callable[[Tree], jax.Array], params: Tree, direction: Tree
) -> jax.Array:
    def slope(params: Tree) -> jax.Array:
        return _derivative_along(function, params, direction)

    return _derivative_along(slope, params, direction)


@dataclasses.dataclass(frozen=True)
class OutputRows:
    """The derivatives of the outputs of one batch at the parameters.

    Attributes:
        objective: the outputs.
        params: the parameters.
        widths: R of every term.
        chunk: samples whose rows are held at once, or None for all of a term.
        dtype: of sums and of the Gram matrix.
    """

    objective: Objective
    params: Tree
    widths: dict[str, int]
    chunk: int | None
    dtype: Any

    def _chunk_size(self, name: str) -> int:
        count = self.objective.counts[name]
        return count if self.chunk is None else min(self.chunk, count)

    def _chunks(self, name: str) -> int:
        return -(-self.objective.counts[name] // self._chunk_size(name))

    def _chunk_start(self, name: str, index: Any) -> Any:
        """Where a chunk starts; the last one may overlap the one before it."""
        return jnp.minimum(
            index * self._chunk_size(name), self.objective.counts[name] - self._chunk_size(name)
        )

    def _chunk_places(self, name: str, index: Any) -> jax.Array:
        return self._chunk_start(name, index) + jnp.arange(self._chunk_size(name))

    def chunk_rows(self, name: str, index: Any, metric: Tree | None) -> Rows:
        """The rows `J M^(-1/2)` of one chunk of this device's samples of a term."""
        places = self._chunk_places(name, index)
        adjoint_rows = self._adjoint_rows[name]
        if adjoint_rows is not None:
            rows = adjoint_rows.rows(None if self._chunks(name) == 1 else places, self.dtype)
        else:
            params = self.objective.local_copy(self.params)
            leaves = jax.tree.leaves(self.objective.sample_rows(params, name, places))
            rows = [leaf.astype(self.dtype) for leaf in leaves]
        if metric is None:
            return rows
        scales = [jax.lax.rsqrt(m.astype(self.dtype)).ravel() for m in jax.tree.leaves(metric)]
        return [row_matrix(row) * scale[None] for row, scale in zip(rows, scales, strict=True)]

    @functools.cached_property
    def _adjoint_rows(self) -> dict[str, AdjointRows | None]:
        """Adjoints of all samples of each term, where rows follow from them."""
        params = self.objective.local_copy(self.params)
        return {name: self.objective.adjoint_rows(params, name) for name in self.widths}

    def _propagate(self) -> None:
        """Computes `_adjoint_rows` before the loops that use them."""
        _ = self._adjoint_rows

    def gram_matrix(self, metric: Tree | None) -> Float[Array, "m m"]:
        """K, in the order of the terms."""
        self._propagate()
        if self.objective.axis_name is not None:
            return self._gram_over_devices(metric)
        names = list(self.widths)
        sizes = [self.objective.counts[name] * self.widths[name] for name in names]
        starts = [sum(sizes[:i]) for i in range(len(names))]
        if all(self._chunks(name) == 1 for name in names):
            return self._gram_at_once(metric)
        gram = jnp.zeros((sum(sizes), sum(sizes)), self.dtype)
        for i, first in enumerate(names):
            for j, second in enumerate(names[: i + 1]):
                gram = self._fill_block(gram, (first, second), (starts[i], starts[j]), metric)
        return gram

    def _gram_at_once(self, metric: Tree | None) -> jax.Array:
        """K from all rows."""
        rows = [self.chunk_rows(name, 0, metric) for name in self.widths]
        blocks = [
            [
                symmetric_product(left) if i == j else rows_product(left, right)
                for j, right in enumerate(rows[: i + 1])
            ]
            for i, left in enumerate(rows)
        ]
        return jnp.block(
            [
                [blocks[i][j] if j <= i else blocks[j][i].T for j in range(len(rows))]
                for i in range(len(rows))
            ]
        )

    def _fill_block(
        self,
        gram: jax.Array,
        names: tuple[str, str],
        starts: tuple[int, int],
        metric: Tree | None,
    ) -> jax.Array:
        """K with the block between two terms and its transpose filled in, chunk by chunk."""
        first, second = names

        def fill_row(i: Any, gram: jax.Array) -> jax.Array:
            left = self.chunk_rows(first, i, metric)
            row = starts[0] + self._chunk_start(first, i) * self.widths[first]

            def fill(j: Any, gram: jax.Array) -> jax.Array:
                part = rows_product(left, self.chunk_rows(second, j, metric))
                column = starts[1] + self._chunk_start(second, j) * self.widths[second]
                gram = jax.lax.dynamic_update_slice(gram, part, (row, column))
                return jax.lax.dynamic_update_slice(gram, part.T, (column, row))

            # Within one term the block is symmetric: only chunks up to the diagonal are computed.
            return jax.lax.fori_loop(
                0, i + 1 if first == second else self._chunks(second), fill, gram
            )

        return jax.lax.fori_loop(0, self._chunks(first), fill_row, gram)

    def _gram_over_devices(self, metric: Tree | None) -> jax.Array:
        """K from the parts of all devices: each has the rows of K of its own samples."""
        strips = {}
        for first in self.widths:
            blocks = [self._device_block(first, second, metric) for second in self.widths]
            strips[first] = jnp.concatenate(blocks, axis=1)
        return jnp.concatenate(list(self.objective.gather(strips).values()))

    def _device_block(self, first: str, second: str, metric: Tree | None) -> jax.Array:
        """The block of K between this device's samples of a term and all samples of another."""
        objective = self.objective
        devices = jax.lax.psum(1, objective.axis_name)  # type: ignore[arg-type]
        sizes = [objective.counts[name] * self.widths[name] for name in (first, second)]
        block = jnp.zeros((sizes[0], devices, sizes[1]), self.dtype)

        def fill_row(i: Any, block: jax.Array) -> jax.Array:
            left = self.chunk_rows(first, i, metric)
            row = self._chunk_start(first, i) * self.widths[first]

            def fill(j: Any, block: jax.Array) -> jax.Array:
                own = self.chunk_rows(second, j, metric)
                every = jax.tree.map(objective.samples(second).gather_over_devices, own)
                part = rows_product(left, every).reshape(-1, devices, row_count(own))
                column = self._chunk_start(second, j) * self.widths[second]
                return jax.lax.dynamic_update_slice(block, part, (row, 0, column))

            return jax.lax.fori_loop(0, self._chunks(second), fill, block)

        # The loop's value differs between devices, its start does not.
        axes: Any = objective.samples(first).axes
        block = jax.lax.fori_loop(0, self._chunks(first), fill_row, to_varying(block, axes))
        return block.reshape(sizes[0], devices * sizes[1])

    def over_chunks(self, name: str, add: Callable[[Any, Any], Any], total: Any) -> Any:
        """`add(index, total)` for all chunks of a term; the total differs between devices."""
        total = self.objective.local_copy(total)
        if self._chunks(name) == 1:
            return add(0, total)
        return jax.lax.fori_loop(0, self._chunks(name), add, total)

    def normal_matrix(self, weights: Blocks) -> Float[Array, "p p"]:
        """`sum_i J_i^T H_i J_i` for blocks of weights [N, R, R] or [N, 1, 1] of every term."""
        self._propagate()
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        total = jnp.zeros((size, size), self.dtype)
        own_weights = self.objective.own_part(weights)
        for name in self.widths:

            def add(index: Any, total: jax.Array, name: str = name) -> jax.Array:
                return total + self._normal_chunk(name, own_weights[name], index)

            total = self.over_chunks(name, add, total)
        return self.objective.sum_over_devices(total)

    def _normal_chunk(self, name: str, weights: jax.Array, index: Any) -> jax.Array:
        rows = jnp.concatenate(list(map(row_matrix, self.chunk_rows(name, index, None))), axis=1)
        chunk, start = self._chunk_size(name), self._chunk_start(name, index)
        blocks = jax.lax.dynamic_slice_in_dim(weights, start, chunk)
        # What the last chunk shares with the one before it counts once.
        is_new = start + jnp.arange(chunk) >= index * chunk
        blocks = jnp.where(is_new[:, None, None], blocks, 0)
        parts = rows.reshape(chunk, -1, rows.shape[1])
        if blocks.shape[1] == 1:
            image = blocks * parts
        else:
            image = jnp.einsum("nrs,nsp->nrp", blocks, parts)
        return rows.T @ image.reshape(rows.shape)

    def gram_diagonal(self, metric: Tree | None) -> Float[Array, " m"]:
        """The diagonal of K, chunk by chunk."""
        self._propagate()
        parts = {}
        for name in self.widths:
            width = self.widths[name]

            def fill(index: Any, diagonal: jax.Array, name: str = name, width: int = width) -> Any:
                squares = squared_lengths(self.chunk_rows(name, index, metric))
                place = self._chunk_start(name, index) * width
                return jax.lax.dynamic_update_slice(diagonal, squares, (place,))

            empty = jnp.zeros(self.objective.counts[name] * width, self.dtype)
            parts[name] = self.over_chunks(name, fill, empty)
        return jnp.concatenate(list(self.objective.gather(parts).values()))

    def push_forward(self, direction: Tree) -> TermOutputs:
        """`J direction`, [N, R] for every term."""
        return self._along(direction, _derivative_along)

    def second_derivative(self, direction: Tree) -> TermOutputs:
        """The second derivative of the outputs along a direction, [N, R] for every term."""
        return self._along(direction, _second_derivative_along)

    def _along(self, direction: Tree, derivative: _DirectionalDerivative) -> TermOutputs:
        direction = jax.tree.map(lambda d, p: d.astype(p.dtype), direction, self.params)
        params, direction = self.objective.local_copy((self.params, direction))
        parts = {}
        for name, width in self.widths.items():

            def fill(index: Any, change: jax.Array, name: str = name) -> jax.Array:
                places = self._chunk_places(name, index)
                part = derivative(
                    lambda params: self.objective.some_outputs(params, name, places),
                    params,
                    direction,
                )
                return jax.lax.dynamic_update_slice(change, part.astype(self.dtype), (places[0], 0))

            empty = jnp.zeros((self.objective.counts[name], width), self.dtype)
            try:
                parts[name] = self.over_chunks(name, fill, empty)
            except (TypeError, NotImplementedError) as error:
                # What JAX says for the first and for the second derivative.
                if "custom_vjp" not in str(error) and "custom_lin" not in str(error):
                    raise
                raise TypeError(NO_FORWARD_MODE.format(name=repr(name))) from error
        return self.objective.gather(parts)

    def pull_back(self, cotangents: TermOutputs) -> Tree:
        """`J^T cotangents`, a tree like the parameters."""
        own = self.objective.own_part(cotangents)
        params = self.objective.local_copy(self.params)
        total = jax.tree.map(jnp.zeros_like, self.params)
        for name in self.widths:

            def add(index: Any, total: Tree, name: str = name) -> Tree:
                places = self._chunk_places(name, index)
                outputs, pull = jax.vjp(
                    lambda params: self.objective.some_outputs(params, name, places), params
                )
                # What the last chunk shares with the one before it counts once.
                is_new = places >= index * self._chunk_size(name)
                part = jnp.where(is_new[:, None], own[name][places], 0).astype(outputs.dtype)
                return jax.tree.map(jnp.add, total, pull(part)[0])

            total = self.over_chunks(name, add, total)
        return self.objective.sum_over_devices(total)
