"""The joint game by definition: one dense Newton minimization over all parameters.

    F(d) = sum_k (c_k / N_k) sum_i phi_k(o_ki + J_ki d) + lambda / 2 (d - d0)^T diag(M) (d - d0)

Jacobians by forward mode of the whole batch, gradients and Hessians of F by autodiff, one dense
solve per Newton step. For tiny problems in float64.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gtddp_jax.core.types import Count, Number, Scalar, Tree

# Users annotate the arguments more narrowly than `Tree`, see `core/types.py`.
if TYPE_CHECKING:
    TermDefinition: TypeAlias = tuple[
        Callable[[Any, Any], Float[Array, "..."]], Callable[[Any, Any], Scalar], Number
    ]
else:
    TermDefinition = tuple[
        Callable[[Tree, Tree], Float[Array, "..."]],
        Callable[[Float[Array, " outputs"], Tree], Scalar],
        Number,
    ]
"""`(residual(params, sample), loss(outputs [R], sample), weight)`."""

NEWTON_STEPS = 200
"""Far from the minimum of a loss with linear tails, fifty can be too few."""

CLOSE = 1e-9
"""Relative decrease of F from which on full Newton steps are taken."""


def joint_step(
    terms: Mapping[str, TermDefinition],
    params: Tree,
    batch: Mapping[str, Tree],
    *,
    damping: Number,
    momentum_step: Float[Array, " p"] | None = None,
    metric: Float[Array, " p"] | None = None,
) -> Float[Array, " p"]:
    """The minimizer d of F, flattened in the order of `ravel_pytree`.

    Args:
        terms: residual, loss and weight of each term.
        params: the parameters.
        batch: samples of each term, leaves [N, ...].
        damping: lambda.
        momentum_step: d0 [p], or None for zeros.
        metric: M [p], or None for ones.

    Returns:
        d [p].
    """
    flat, unravel = ravel_pytree(params)
    start = jnp.zeros_like(flat) if momentum_step is None else momentum_step
    diagonal = jnp.ones_like(flat) if metric is None else metric

    def outputs(vector: jax.Array) -> dict[str, jax.Array]:
        values = {}
        for name, (residual, _, _) in terms.items():
            samples = jax.tree.leaves(batch[name])[0].shape[0]
            one = [jax.tree.map(lambda leaf, i=i: leaf[i], batch[name]) for i in range(samples)]
            rows = [jnp.ravel(residual(unravel(vector), sample)) for sample in one]
            values[name] = jnp.stack(rows)
        return values

    base, jacobian = outputs(flat), jax.jacfwd(outputs)(flat)

    def objective(step: jax.Array) -> Scalar:
        total = 0.5 * damping * (step - start) @ (diagonal * (step - start))
        for name, (_, loss, weight) in terms.items():
            linear = base[name] + jacobian[name] @ step
            total += weight * jax.vmap(loss)(linear, batch[name]).mean()
        return total

    def improve(_: Count, step: jax.Array) -> jax.Array:
        value, slope = jax.value_and_grad(objective)(step)
        change = -jnp.linalg.solve(jax.hessian(objective)(step), slope)
        # Near the minimum rounding hides the decrease; Newton's own step is right there.
        searches = -slope @ change > CLOSE * jnp.abs(value)

        def is_too_long(length: jax.Array) -> jax.Array:
            enough = objective(step + length * change) <= value
            return searches & ~enough & (length > 1e-9)

        length = jax.lax.while_loop(
            is_too_long, lambda length: 0.5 * length, jnp.ones((), step.dtype)
        )
        return step + length * change

    return jax.lax.fori_loop(0, NEWTON_STEPS, improve, start)
