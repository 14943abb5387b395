"""The published step of SOAP for one array (Vyas et al. 2024, Algorithm 3, and its code).

The first call only makes the bases: it moves nothing, and no gradient is projected on bases that
it has made itself. In call n > 0 (numbered from 0), in the bases of call n - 1,

    m  = b1 m + (1 - b1) G,    v = b2 v + (1 - b2) (G')^2
    update = -eta sqrt(1 - b2^n) / (1 - b1^n) Q_L (m' / (sqrt(v) + eps)) Q_R^T

and then L and R take in G. In each call whose number is a multiple of the period, the bases take
one step of power iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Count, Number
from gtddp_jax.curvature.soap import axis_bases
from gtddp_jax.curvature.soap.axis_bases import AxisBases


class LeafState(NamedTuple):
    """The state of one array, in at least float32.

    Attributes:
        mean: m, running mean of the gradient, in the array's own coordinates.
        second_moment: v, in the bases.
        grams: the running Gram matrices of the axes with a basis, [n, n] each.
        bases: their bases, [n, n] each.
    """

    mean: jax.Array
    second_moment: jax.Array
    grams: AxisBases
    bases: AxisBases


class LeafStep(NamedTuple):
    """What one gradient makes of an array.

    Attributes:
        direction: the gradient's mean, preconditioned; the update is `-eta` times that.
        scale: the diagonal of P in the bases before the step, without the learning rate.
        state: the state after the step, with the bases before it.
    """

    direction: jax.Array
    scale: jax.Array
    state: LeafState


class Decays(NamedTuple):
    """The decays of the running means, and Adam's epsilon.

    Attributes:
        mean: b1.
        second_moment: b2.
        gram: the decay of L and R.
        eps: added to the root of v.
    """

    mean: Number
    second_moment: Number
    gram: Number
    eps: Number


def init_leaf(leaf: jax.Array, axes: tuple[int, ...]) -> LeafState:
    """The state before the first call."""
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    sizes = [leaf.shape[axis] for axis in axes]
    return LeafState(
        jnp.zeros(leaf.shape, dtype),
        jnp.zeros(leaf.shape, dtype),
        tuple(jnp.zeros((size, size), dtype) for size in sizes),
        tuple(jnp.eye(size, dtype=dtype) for size in sizes),
    )


def step_leaf(
    gradient: jax.Array, state: LeafState, axes: tuple[int, ...], count: Count, decays: Decays
) -> LeafStep:
    """The step of call `count`, without new bases.

    Args:
        gradient: G, in the dtype of the state.
        state: the state before the call.
        axes: the axes with a basis.
        count: the number of calls before this one.
        decays: the decays.
    """
    moves = count > 0
    # The first call has no step, and with the number 0 its corrections would divide by zero.
    number = jnp.maximum(count, 1)
    rotated = axis_bases.to_axis_bases(gradient, axes, state.bases)

    def averaged(old: jax.Array, new: jax.Array, decay: Number) -> jax.Array:
        return jnp.where(moves, decay * old + (1 - decay) * new, old).astype(old.dtype)

    mean = averaged(state.mean, gradient, decays.mean)
    second_moment = averaged(state.second_moment, jnp.square(rotated), decays.second_moment)
    # As published, eps is added before the bias of v is corrected.
    unbiased = jnp.sqrt(1 - decays.second_moment**number) / (jnp.sqrt(second_moment) + decays.eps)
    scale = jnp.where(moves, unbiased, 0).astype(mean.dtype)
    unbiased_mean = axis_bases.to_axis_bases(mean, axes, state.bases) / (1 - decays.mean**number)
    direction = axis_bases.from_axis_bases(scale * unbiased_mean, axes, state.bases)
    grams = tuple(
        (decays.gram * old + (1 - decays.gram) * axis_bases.gram_matrix(gradient, axis)).astype(
            old.dtype
        )
        for axis, old in zip(axes, state.grams, strict=True)
    )
    after = LeafState(mean, second_moment, grams, state.bases)
    return LeafStep(direction.astype(mean.dtype), scale, after)


def first_bases(state: LeafState) -> LeafState:
    """The state with the eigenvectors of its Gram matrices."""
    return state._replace(bases=tuple(map(axis_bases.eigenvector_columns, state.grams)))


def next_bases(state: LeafState, axes: tuple[int, ...]) -> LeafState:
    """The state after one step of power iteration."""
    bases, second_moment = [], state.second_moment
    for axis, gram, basis in zip(axes, state.grams, state.bases, strict=True):
        order = axis_bases.power_iteration_order(gram, basis)
        # As published, v follows the order of the columns and is not rotated.
        second_moment = jnp.take(second_moment, order, axis)
        bases.append(axis_bases.power_iteration(gram, basis, order))
    return state._replace(second_moment=second_moment, bases=tuple(bases))
