"""Dense models of the terminal Hessian, [B, n, n].

They are the quadratic terminal models of docs/mathematics.md, "4. Terminal models", and the
exact Hessian.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.types import PerSample

PerSampleLoss: TypeAlias = Callable[[Float[Array, "B ..."]], PerSample]


def _gradients_and_hessians(loss: PerSampleLoss, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients [B, n] and Hessians [B, n, n] of each sample's loss."""
    shape, batch = outputs.shape, outputs.shape[0]

    def total_loss(flat: jax.Array) -> jax.Array:
        return loss(flat.reshape(shape)).sum()

    flat = outputs.reshape(batch, -1)
    # Samples are separate at the outputs, so all blocks between two samples are zero.
    full = jax.hessian(total_loss)(flat)
    sample = jnp.arange(batch)
    return jax.grad(total_loss)(flat), full[sample, :, sample, :]


def exact_hessian(loss: PerSampleLoss, outputs: Float[Array, "B ..."]) -> Float[Array, "B n n"]:
    """The Hessian itself."""
    return _gradients_and_hessians(loss, outputs)[1]


def gradient_hessian(loss: PerSampleLoss, outputs: Float[Array, "B ..."]) -> Float[Array, "B n n"]:
    """`g g^T` (paper Prop. 5)."""
    g, _ = _gradients_and_hessians(loss, outputs)
    return jnp.einsum("bp,bq->bpq", g, g)


def projected_hessian(loss: PerSampleLoss, outputs: Float[Array, "B ..."]) -> Float[Array, "B n n"]:
    """`h g g^T` with `h = g^T H g / |g|^4`, at least 0."""
    g, hessian = _gradients_and_hessians(loss, outputs)
    squared_norm = (g**2).sum(-1)
    h = jnp.einsum("bp,bpq,bq->b", g, hessian, g) / squared_norm**2
    return jnp.maximum(h, 0)[:, None, None] * jnp.einsum("bp,bq->bpq", g, g)


HESSIANS = {"exact": exact_hessian, "gradient": gradient_hessian, "projected": projected_hessian}
"""All dense terminal models by name."""
