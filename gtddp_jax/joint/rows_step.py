"""A joint step from rows and a right-hand side that are no residual's derivative.

| symbol | meaning                                            | shape  |
|--------|----------------------------------------------------|--------|
| O      | rows, for example gradients of log psi             | [m, p] |
| e      | right-hand side, for example minus local energies  | [m]    |
| M, d0  | metric and momentum step                           | [p]    |

    d = d0 + M^-1 O^T (O M^-1 O^T + lambda I)^-1 (e - O d0)

with O and e centered, that is without their means over the m samples, and divided by sqrt(m).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from gtddp_jax.core import validation
from gtddp_jax.core.types import Count, Number, Scalar, Tree
from gtddp_jax.joint.linear_solve import symmetric_solver
from gtddp_jax.joint.outer_rows import symmetric_product


class RowsStep(NamedTuple):
    """A step and how its system was solved.

    Attributes:
        step: d, a tree like the parameters.
        condition: estimate of the condition number of the scaled, damped system.
        linear_residual: norm of what the system lacks, relative to its right-hand side.
        rank: int32; dimensions solved for.
        method: int32; 0 Cholesky, 1 eigendecomposition, see `JointReport`.
    """

    step: Tree
    condition: Scalar
    linear_residual: Scalar
    rank: Count
    method: Count


def step_from_rows(
    rows: Tree,
    right_hand_side: Shaped[Array, " m"],
    damping: Number,
    *,
    momentum_step: Tree | None = None,
    metric: Tree | None = None,
    center: bool = True,
    gram_dtype: DTypeLike | None = None,
) -> RowsStep:
    """The joint step of variational Monte Carlo and its like, from rows of any origin.

    `joint` differentiates residuals. Gradients of log psi and local energies are related in another
    way: to lower the energy, the change of log psi should be minus the local energies, up to a
    constant. With `right_hand_side = -local_energies` this function returns the step of minSR, and
    with `momentum_step = mu * (the last step)` that of SPRING; multiply it by a learning rate.

    Complex rows or right-hand sides stand for real and imaginary parts side by side, which is right
    for real parameters of a complex wave function.

    Args:
        rows: derivatives of m samples, a tree like the parameters of arrays [m, ...], for example
            `jax.vmap(jax.grad(log_psi), (None, 0))(params, samples)`.
        right_hand_side: [m].
        damping: lambda, a number > 0.
        momentum_step: d0, a tree like the parameters; None for zeros.
        metric: the diagonal of M, a tree like the parameters; None for ones.
        center: whether to subtract the means over samples.
        gram_dtype: of the system; None for float64 where JAX has it enabled, else float32.

    Returns:
        The step, a tree like the parameters in the dtypes of the rows, and how it was found.

    Raises:
        ValueError: the shapes do not fit, or the damping is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> log_psi = lambda params, x: -params["a"] * x**2
        >>> params, x = {"a": jnp.array(0.3)}, jnp.linspace(-2.0, 2.0, 50)
        >>> rows = jax.vmap(jax.grad(log_psi), (None, 0))(params, x)
        >>> a = params["a"]
        >>> local_energies = a + (0.5 - 2 * a**2) * x**2  # of the harmonic oscillator
        >>> found = gt.step_from_rows(rows, -local_energies, 1e-6)
        >>> print(f"{found.step['a']:.3f}")
        0.320
    """
    validation.check_positive("step_from_rows", damping=damping)
    _check_shapes(rows, right_hand_side, momentum_step, metric)
    dtype = _system_dtype(gram_dtype)
    count = right_hand_side.shape[0]
    matrix = jnp.concatenate([leaf.reshape(count, -1) for leaf in jax.tree.leaves(rows)], axis=1)
    right = jnp.asarray(right_hand_side)
    is_complex = jnp.iscomplexobj(matrix) or jnp.iscomplexobj(right)
    matrix, right = (_real_rows(x, is_complex, center, dtype) for x in (matrix, right))
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.real.dtype), rows)

    def flat(tree: Tree | None, value: float) -> jax.Array:
        whole = jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), like)
        return ravel_pytree(whole if tree is None else tree)[0].astype(dtype)

    start, scale = flat(momentum_step, 0.0), jax.lax.rsqrt(flat(metric, 1.0))
    scaled = matrix * scale[None]
    gram = symmetric_product([scaled])
    lam = jnp.asarray(damping, dtype)
    solve = symmetric_solver(
        lambda: gram + lam * jnp.eye(gram.shape[0], dtype=dtype),
        lambda vector: gram @ vector + lam * vector,
    )
    solution = solve(right - matrix @ start)
    vector = start + scale * (solution.value @ scaled)
    return RowsStep(
        _like_tree(vector, like),
        solution.condition,
        solution.residual,
        solution.rank,
        solution.method,
    )


def _system_dtype(gram_dtype: DTypeLike | None) -> Any:
    if gram_dtype is not None:
        return jnp.dtype(gram_dtype)
    return jnp.dtype(jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32)


def _real_rows(x: jax.Array, is_complex: bool, center: bool, dtype: Any) -> jax.Array:
    """Real and imaginary parts one below the other, centered and divided by sqrt(m)."""
    count = x.shape[0]
    parts = [x.real, x.imag] if is_complex else [x]
    wide = [part.astype(dtype) for part in parts]
    if center:
        wide = [part - part.mean(0, keepdims=True) for part in wide]
    return jnp.concatenate(wide) / jnp.sqrt(jnp.asarray(count, dtype))


def _like_tree(vector: Float[Array, " p"], like: Tree) -> Tree:
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0
    for leaf in leaves:
        found.append(vector[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(structure, found)


def _check_shapes(rows: Tree, right: Any, momentum_step: Tree | None, metric: Tree | None) -> None:
    leaves = jax.tree.leaves(rows)
    counts = {jnp.shape(leaf)[:1] for leaf in leaves}
    if not leaves or jnp.ndim(right) != 1 or counts != {jnp.shape(right)} or not right.size:
        raise ValueError(
            "step_from_rows: rows must be a tree of arrays [m, ...] and right_hand_side an array "
            f"[m] with the same m >= 1; got leading shapes {sorted(counts)} and shape "
            f"{jnp.shape(right)}. Rows: jax.vmap(jax.grad(log_psi), (None, 0))(params, samples)."
        )
    shapes = jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], rows)
    for name, tree in (("momentum_step", momentum_step), ("metric", metric)):
        if tree is not None and jax.tree.map(jnp.shape, tree) != shapes:
            raise ValueError(
                f"step_from_rows: {name} must be a tree like the parameters, with the arrays of "
                f"rows without their first axis; got {jax.tree.map(jnp.shape, tree)} for {shapes}."
            )
