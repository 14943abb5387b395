"""Geodesic acceleration: how the path of a joint step bends (Transtrum and Sethna 2012).

Along a straight path outputs change by `t J d + t^2/2 o''`, with o'' their second derivative along
d. The path `t d + t^2/2 a` bends so that they remain as close to the line as damping allows:

    a = argmin 1/2 (o'' + J a)^T H (o'' + J a) + lambda / 2 a^T M a

with H the second derivatives of the losses at the predicted outputs `o + J d`. For squared losses
that is one more right-hand side for the factorized matrix of the step.

| symbol  | meaning                                             | shape |
|---------|-----------------------------------------------------|-------|
| o''     | second derivative of all outputs along d            | [m]   |
| a       | acceleration                                        | [p]   |
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.types import Scalar, Tree
from gtddp_jax.joint.linear_solve import Solver
from gtddp_jax.joint.loss_blocks import loss_derivatives, multiply_blocks
from gtddp_jax.joint.objective import Blocks, TermOutputs
from gtddp_jax.joint.parameter_space import flatten_tree
from gtddp_jax.joint.rows import OutputRows, flatten_outputs, unflatten_outputs


def output_acceleration(rows: OutputRows, step: Tree) -> Float[Array, " m"]:
    """The second derivative of the outputs along the step, o'' [m]."""
    return flatten_outputs(rows.second_derivative(step), rows.dtype)


def acceleration_in_sample_space(
    rows: OutputRows,
    step: Tree,
    predicted: TermOutputs,
    make_solver: Callable[[Blocks], Solver],
) -> Float[Array, " m"]:
    """The multipliers y [m] with `a = M^-1 J^T y`.

    Args:
        rows: the derivatives of the outputs.
        step: d.
        predicted: `o + J d`.
        make_solver: root of H at the predicted outputs -> a solver of `damping I + root K root`.
    """
    root = loss_derivatives(rows.objective, predicted, rows.dtype).root
    right = -multiply_blocks(root, output_acceleration(rows, step), predicted)
    return multiply_blocks(root, make_solver(root)(right).value, predicted)


def acceleration_in_parameter_space(
    rows: OutputRows,
    step: Tree,
    predicted: TermOutputs,
    make_solver: Callable[[Blocks], Solver],
) -> Float[Array, " p"]:
    """The acceleration a [p].

    Args:
        rows: the derivatives of the outputs.
        step: d.
        predicted: `o + J d`.
        make_solver: H at the predicted outputs -> a solver of `J^T H J + damping M`.
    """
    hessian = loss_derivatives(rows.objective, predicted, rows.dtype).hessian
    weighted = multiply_blocks(hessian, output_acceleration(rows, step), predicted)
    right = -flatten_tree(rows.pull_back(unflatten_outputs(weighted, predicted)), rows.dtype)
    return make_solver(hessian)(right).value


def bounded_acceleration(
    acceleration: Tree, step: Tree, bound: Scalar | float
) -> tuple[Tree, Scalar]:
    """The acceleration if |a| <= bound |d|, else zeros; and the ratio |a| / |d|.

    Where it is larger the expansion of the path in powers of t means nothing.
    """
    norms = [
        jnp.sqrt(jnp.stack([jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)]).sum())
        for tree in (acceleration, step)
    ]
    ratio = norms[0] / jnp.where(norms[1] > 0, norms[1], 1.0)
    # A NaN is no acceleration.
    kept = jax.tree.map(lambda a: jnp.where(ratio <= bound, a, jnp.zeros_like(a)), acceleration)
    return kept, ratio
