"""Rows as sums of outer products, and products of rows.

A parameter that data meet in a matrix product has, in the row of one output, a sum of S outer
products of data and adjoints; S counts uses and positions. With `a_s` and `b_s` for these vectors,

    K_ij = sum_st (a_is . a_jt) (b_is . b_jt)

takes `S^2 (A + B)` multiplications instead of the `A B` of the rows themselves.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def entry_cost(pairs: int, left: int, right: int) -> int:
    """Multiplications for the part of one parameter in an entry of K.

    Args:
        pairs: number of pairs of outer products.
        left: A.
        right: B.
    """
    return pairs * (left + right + 1)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["left", "right"],
    meta_fields=["left_axes", "shape"],
)
@dataclasses.dataclass(frozen=True)
class OuterRows:
    """Rows of one parameter, factored.

    Attributes:
        left: vectors along the axes `left_axes` of the parameter, flattened.
        right: vectors along its other axes.
        left_axes: in ascending order.
        shape: of the parameter.
    """

    left: Float[Array, "r S A"]
    right: Float[Array, "r S B"]
    left_axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def terms(self) -> int:
        """S."""
        return self.left.shape[1]

    def matrix(self) -> Float[Array, "r _"]:
        """The rows."""
        right_axes = [axis for axis in range(len(self.shape)) if axis not in self.left_axes]
        order = [*self.left_axes, *right_axes]
        products = jnp.einsum("rsa,rsb->rab", self.left, self.right)
        products = products.reshape(-1, *(self.shape[axis] for axis in order))
        inverse = sorted(range(len(order)), key=order.__getitem__)
        products = products.transpose(0, *(axis + 1 for axis in inverse))
        return products.reshape(products.shape[0], math.prod(self.shape))

    def is_cheaper(self, other: "OuterRows") -> bool:
        """Whether a product with rows along the same axes is cheaper by the vectors."""
        pairs = self.terms * other.terms
        return entry_cost(pairs, self.left.shape[2], self.right.shape[2]) < math.prod(self.shape)


LeafRows: TypeAlias = Float[Array, "r _"] | OuterRows
"""Rows of one parameter."""

Rows: TypeAlias = Sequence[LeafRows]
"""Rows by parameter, so that J is never copied as a whole."""

SYMMETRIC_BLOCK = 256
"""Number of rows from which on products of a matrix with its transpose are made in blocks."""


def row_matrix(rows: LeafRows) -> Float[Array, "r _"]:
    """The rows of one parameter as a matrix."""
    return rows.matrix() if isinstance(rows, OuterRows) else rows


def row_count(rows: Rows) -> int:
    """The number of rows."""
    return jax.tree.leaves(rows[0])[0].shape[0]


def take_rows(rows: Rows, places: slice | jax.Array) -> Rows:
    """Some of the rows."""
    return jax.tree.map(lambda x: x[places], rows)


def _cheaper_form(rows: LeafRows) -> LeafRows:
    """The rows of one parameter in the form in which a product with themselves is cheaper."""
    if isinstance(rows, OuterRows) and not rows.is_cheaper(rows):
        return rows.matrix()
    return rows


def _leaf_product(left: LeafRows, right: LeafRows) -> Float[Array, "r q"]:
    """`left right^T` for the rows of one parameter."""
    if not isinstance(left, OuterRows) or not isinstance(right, OuterRows):
        return row_matrix(left) @ row_matrix(right).T
    if left.left_axes != right.left_axes or not left.is_cheaper(right):
        return left.matrix() @ right.matrix().T
    products = [
        a.reshape(-1, a.shape[2]) @ b.reshape(-1, b.shape[2]).T
        for a, b in ((left.left, right.left), (left.right, right.right))
    ]
    product = products[0] * products[1]
    if left.terms == right.terms == 1:
        return product
    shape = (left.left.shape[0], left.terms, right.left.shape[0], right.terms)
    return product.reshape(shape).sum((1, 3))


def rows_product(left: Rows, right: Rows) -> Float[Array, "r q"]:
    """`left right^T`."""
    parts = [_leaf_product(a, b) for a, b in zip(left, right, strict=True)]
    return functools.reduce(jnp.add, parts)


def symmetric_product(rows: Rows) -> Float[Array, "r r"]:
    """`rows rows^T`, with about half of the work where there are many rows."""
    size = row_count(rows)
    blocks = size // SYMMETRIC_BLOCK
    if blocks < 2:
        return rows_product(rows, rows)
    kept = list(map(_cheaper_form, rows))
    product = jnp.zeros((size, size), jax.tree.leaves(rows[0])[0].dtype)
    for i in range(blocks):
        start, stop = i * size // blocks, (i + 1) * size // blocks
        strip = rows_product(take_rows(kept, slice(start, stop)), take_rows(kept, slice(0, stop)))
        product = product.at[start:stop, :stop].set(strip)
        product = product.at[:start, start:stop].set(strip[:, :start].T)
    return product


def squared_lengths(rows: Rows) -> Float[Array, " r"]:
    """The squared length of every row."""
    parts = []
    for leaf in map(_cheaper_form, rows):
        if isinstance(leaf, OuterRows):
            left = jnp.einsum("rsa,rta->rst", leaf.left, leaf.left)
            parts.append((left * jnp.einsum("rsb,rtb->rst", leaf.right, leaf.right)).sum((1, 2)))
        else:
            parts.append(jnp.square(leaf).sum(1))
    return functools.reduce(jnp.add, parts)
