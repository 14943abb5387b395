"""The factors of several players side by side, A_ww and B_ww (paper Eq. 50).

    A_ww = E[x^ x^^T],  B_ww = E[g^ g^^T],  x^ = [x_u, x_v, ...],  g^ = [g_u, g_v, ...]

Positions of players with outputs of one size are paired. For others the cross moments are those of
position averages, which leaves the joint matrix positive semi-definite (DESIGN §5).
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.chunks import sum_over_samples
from gtddp_jax.core.types import Number
from gtddp_jax.kronecker import statistics
from gtddp_jax.kronecker.averages import Average
from gtddp_jax.kronecker.cooperation.base import Batch
from gtddp_jax.kronecker.damping import balanced
from gtddp_jax.kronecker.layouts import Layout


class Joint(NamedTuple):
    """Running joint factors.

    Attributes:
        inputs: A_ww, [1, all rows, all rows].
        outputs: B_ww, [1, all columns, all columns].
    """

    inputs: Average
    outputs: Average


class Damped(NamedTuple):
    """Joint factors with factored damping on each player's own blocks.

    Attributes:
        inputs: [all rows, all rows].
        outputs: [all columns, all columns].
    """

    inputs: jax.Array
    outputs: jax.Array


def spans(widths: list[int]) -> list[slice]:
    """Where each player's part stands in a joint factor."""
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def rows(layouts: Mapping[str, Layout]) -> dict[str, slice]:
    """The players' places in A_ww."""
    return dict(zip(layouts, spans([la.rows for la in layouts.values()]), strict=True))


def columns(layouts: Mapping[str, Layout]) -> dict[str, slice]:
    """The players' places in B_ww."""
    return dict(zip(layouts, spans([la.columns for la in layouts.values()]), strict=True))


def init(layouts: Mapping[str, Layout], dtype: jnp.dtype) -> Joint:
    """Factors that have seen nothing."""

    def average(width: int) -> Average:
        return Average(jnp.zeros((1, width, width), dtype), jnp.zeros((), dtype))

    return Joint(
        average(sum(la.rows for la in layouts.values())),
        average(sum(la.columns for la in layouts.values())),
    )


def observed(joint: Joint, layouts: Mapping[str, Layout], batch: Batch) -> Joint:
    """The factors after one more batch."""
    data = {
        name: (batch.moves[name].inputs, statistics.weighted(batch.moves[name], batch.alpha))
        for name in layouts
    }
    shapes = {name: g.shape[1:-1] for name, (_, g) in data.items()}

    def sums(part: dict[str, tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, jax.Array]:
        seen = {
            name: statistics.vectors(layouts[name], x, g, batch.positions)
            for name, (x, g) in part.items()
        }
        return (
            _moments([seen[name].a for name in layouts], [shapes[name] for name in layouts]),
            _moments([seen[name].b for name in layouts], [shapes[name] for name in layouts]),
        )

    chunk = min(statistics.chunk_of(layouts[name], *data[name]) for name in layouts)
    totals = batch.samples.total(sum_over_samples(sums, data, chunk))
    means = [
        (total / batch.samples.count).astype(average.total.dtype)[None]
        for total, average in zip(totals, joint, strict=True)
    ]
    return Joint(
        joint.inputs.updated(means[0], batch.decay), joint.outputs.updated(means[1], batch.decay)
    )


def _moments(vs: list[jax.Array], shapes: list[tuple[int, ...]]) -> jax.Array:
    """Sums over samples, means over positions, of vectors [n, S, 1, width] side by side."""
    flat = [v[:, :, 0] for v in vs]
    means = [v.mean(1) for v in flat]

    def block(u: int, v: int) -> jax.Array:
        if flat[u].shape[1] == flat[v].shape[1] and shapes[u] == shapes[v]:
            return jnp.einsum("nsp,nsq->pq", flat[u], flat[v]) / flat[u].shape[1]
        return jnp.einsum("np,nq->pq", means[u], means[v])

    n = range(len(vs))
    return jnp.block([[block(u, v) for v in n] for u in n])


def damped(joint: Joint, layouts: Mapping[str, Layout], gamma: Number) -> Damped:
    """Adds every player's own `pi sqrt(gamma)` and `sqrt(gamma) / pi` to its diagonal blocks."""
    a, b = joint.inputs.value[0], joint.outputs.value[0]
    left, right = [], []
    for name, layout in layouts.items():
        own_a = jnp.diagonal(a)[rows(layouts)[name]].mean()[None]
        own_b = jnp.diagonal(b)[columns(layouts)[name]].mean()[None]
        add = balanced(own_a, own_b, gamma, (layout.rows, layout.columns))
        left.append(jnp.broadcast_to(add.left, (layout.rows,)))
        right.append(jnp.broadcast_to(add.right, (layout.columns,)))
    return Damped(a + jnp.diag(jnp.concatenate(left)), b + jnp.diag(jnp.concatenate(right)))
