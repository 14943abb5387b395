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

from gtddp_jax.core.types import Number, Scalar, Tree

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

NEWTON_STEPS = 40

CLOSE = 1e-9
"""Relative decrease of F from which on full Newton steps are taken."""


def joint_step(
    terms: Mapping[str, TermDefinition],
    params: Tree,
    batch: Mapping[str, Tree],
    *,
    damping: float,
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

    gradient, hessian = jax.jit(jax.grad(objective)), jax.jit(jax.hessian(objective))
    value = jax.jit(objective)
    step = start
    for _ in range(NEWTON_STEPS):
        slope = gradient(step)
        change = -jnp.linalg.solve(hessian(step), slope)
        length = 1.0
        # Near the minimum rounding hides the decrease; Newton's own step is right there.
        if -slope @ change > CLOSE * abs(value(step)):
            while not value(step + length * change) <= value(step) and length > 1e-9:
                length /= 2
        step = step + length * change
    return step
