"""From a batch to factors: the vectors a and b of a player and their second moments.

Every factor is a mean over vectors. To make their product the curvature of a *sum* over positions,
b is scaled by sqrt(S): `S E[a a^T] (x) E[b b^T]`, with expectations over samples and positions.

| positions | a                   | b                        | for                            |
|-----------|---------------------|--------------------------|--------------------------------|
| `expand`  | of each position    | sqrt(S) of each position | positions that act separately  |
| `reduce`  | mean over positions | sum over positions       | weights shared inside a sample |

For convolutions `expand` is KFC (Grosse and Martens 2016); the two names are those of Eschenhagen
et al. 2023. With one position a sample they are the same.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.chunks import sum_over_samples
from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import per_sample
from gtddp_jax.curvature.base import Move
from gtddp_jax.kronecker.averages import Average, Factor
from gtddp_jax.kronecker.layouts import Layout

POSITIONS = ("expand", "reduce")
WORKING_SET = 2**21
"""Numbers of vectors that are laid out at once; a convolution's patches are many."""


class Vectors(NamedTuple):
    """The vectors of some samples.

    Attributes:
        a: [B, S, groups, rows].
        b: [B, S, groups, columns], scaled as the module's docstring says.
    """

    a: jax.Array
    b: jax.Array


def vectors(layout: Layout, x: jax.Array, g: jax.Array, positions: str) -> Vectors:
    """The vectors of a player with inputs x [B, ...] and weighted adjoints g [B, ...]."""
    a, b = layout.inputs(x), layout.outputs(g)
    if positions == "reduce":
        return Vectors(a.mean(1, keepdims=True), b.sum(1, keepdims=True))
    return Vectors(a, b * jnp.sqrt(jnp.asarray(b.shape[1], b.dtype)))


def weighted(move: Move, alpha: jax.Array) -> jax.Array:
    """V_h = alpha g_h (paper Eq. 43), [B, ...]."""
    return (per_sample(alpha, move.adjoints) * move.adjoints).astype(move.adjoints.dtype)


def chunk_of(layout: Layout, x: jax.Array, g: jax.Array) -> int:
    """How many samples' vectors are laid out at once."""
    return max(1, WORKING_SET // (layout.positions(x, g) * layout.groups * layout.rows))


def moments(v: jax.Array) -> jax.Array:
    """`sum v v^T` over samples and positions of [B, S, groups, width]: [groups, width, width]."""
    v = v.reshape(-1, *v.shape[2:]).transpose(1, 0, 2)
    return jnp.einsum("gnd,gne->gde", v, v)


def updated(
    factors: tuple[Factor, Factor],
    layout: Layout,
    move: Move,
    alpha: jax.Array,
    positions: str,
    decay: float,
    samples: Samples,
) -> tuple[Factor, Factor]:
    """The factors of one player after one more batch.

    Args:
        factors: of a and of b.
        layout: the player's matrix form.
        move: its inputs and output adjoints.
        alpha: the weights of the samples, [B].
        positions: "expand" or "reduce".
        decay: factor on the weight of older batches.
        samples: the sample axis.
    """
    x, g = move.inputs, weighted(move, alpha)
    count = layout.positions(x, g) if positions == "expand" else 1

    def sums(batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(
            moments(v)
            for v, factor in zip(vectors(layout, *batch, positions), factors, strict=True)
            if isinstance(factor, Average)
        )

    found = iter(sum_over_samples(sums, (x, g), chunk_of(layout, x, g)))
    lists = iter(vectors(layout, x, g, positions)) if _any_window(factors) else iter(())
    after: list[Factor] = []
    for factor in factors:
        list_of = next(lists, None)
        if isinstance(factor, Average):
            mean = samples.total(next(found)) / (samples.count * count)
            after.append(factor.updated(mean.astype(factor.total.dtype), decay))
        else:
            assert list_of is not None
            flat = list_of.reshape(-1, *list_of.shape[2:])
            after.append(factor.updated(flat, decay, samples))
    return after[0], after[1]


def _any_window(factors: tuple[Factor, Factor]) -> bool:
    return not all(isinstance(factor, Average) for factor in factors)
