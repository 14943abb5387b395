"""Second derivatives of the losses, one block per sample, and their roots.

A block [1, 1] of a sample with several outputs stands for a multiple of the identity.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.joint.objective import Blocks, Objective, TermOutputs
from gtddp_jax.joint.rows import flatten_outputs


class LossDerivatives(NamedTuple):
    """Derivatives of the weighted losses at some outputs.

    Attributes:
        gradient: of phi~, flattened [m].
        hessian: H, `{term: [N, R, R] or [N, 1, 1]}`.
        root: `H^(1/2)`.
        inverse_root: pseudo-inverse of `root`.
    """

    gradient: Float[Array, " m"]
    hessian: Blocks
    root: Blocks
    inverse_root: Blocks


def multiply_blocks(
    blocks: Blocks, array: Float[Array, "m ..."], like: TermOutputs
) -> Float[Array, "m ..."]:
    """The block-diagonal matrix of all terms times a vector or matrix.

    Args:
        blocks: [N, R, R] or [N, 1, 1] of every term.
        array: one row per output.
        like: the outputs, for their shapes.
    """
    parts, start = [], 0
    for name, value in blocks.items():
        samples, outputs = like[name].shape
        part = array[start : start + samples * outputs].reshape(samples, outputs, -1)
        is_scalar = value.shape[1] == 1
        product = value * part if is_scalar else jnp.einsum("nrs,nsc->nrc", value, part)
        parts.append(product.reshape(samples * outputs, *array.shape[1:]))
        start += samples * outputs
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def loss_derivatives(objective: Objective, outputs: TermOutputs, dtype: Any) -> LossDerivatives:
    """Gradient and Hessian of the weighted losses, and the roots of the Hessian.

    A negative eigenvalue, which a convex loss has by rounding alone, counts as zero.
    """
    gradients, hessian = objective.derivatives(
        {name: value.astype(dtype) for name, value in outputs.items()}
    )
    hessian = {name: value.astype(dtype) for name, value in hessian.items()}
    roots = {name: _roots(value) for name, value in hessian.items()}
    return LossDerivatives(
        flatten_outputs(gradients, dtype),
        hessian,
        {name: root for name, (root, _) in roots.items()},
        {name: inverse for name, (_, inverse) in roots.items()},
    )


def _roots(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The symmetric square root of every block, and its pseudo-inverse."""
    if blocks.shape[1] == 1:
        root = jnp.sqrt(jnp.maximum(blocks, 0))
        return root, jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1.0), 0.0)
    values, vectors = jnp.linalg.eigh(blocks)
    epsilon = jnp.finfo(blocks.dtype)
    largest = jnp.maximum(values[:, -1:], epsilon.tiny)
    kept = values > blocks.shape[1] * epsilon.eps * largest
    roots = jnp.sqrt(jnp.where(kept, values, 0.0))
    inverses = jnp.where(kept, 1 / jnp.where(kept, roots, 1.0), 0.0)

    def with_eigenvalues(diagonal: jax.Array) -> jax.Array:
        return jnp.einsum("nrs,ns,nts->nrt", vectors, diagonal, vectors)

    return with_eigenvalues(roots), with_eigenvalues(inverses)
