"""Dense models of the terminal Hessian, [B, n, n] (DESIGN §4)."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.types import PerSample

PerSampleLoss: TypeAlias = Callable[[Float[Array, "B ..."]], PerSample]


def _derivatives(loss: PerSampleLoss, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients [B, n] and Hessians [B, n, n] of each sample's loss."""
    shape, batch = outputs.shape, outputs.shape[0]

    def total(flat: jax.Array) -> jax.Array:
        return loss(flat.reshape(shape)).sum()

    flat = outputs.reshape(batch, -1)
    full = jax.hessian(total)(flat)
    index = jnp.arange(batch)
    return jax.grad(total)(flat), full[index, :, index, :]


def exact(loss: PerSampleLoss, outputs: Float[Array, "B ..."]) -> Float[Array, "B n n"]:
    """The Hessian itself."""
    return _derivatives(loss, outputs)[1]


def gradient(loss: PerSampleLoss, outputs: Float[Array, "B ..."]) -> Float[Array, "B n n"]:
    """`g g^T` (paper Prop. 5)."""
    g, _ = _derivatives(loss, outputs)
    return jnp.einsum("bp,bq->bpq", g, g)


def projected(loss: PerSampleLoss, outputs: Float[Array, "B ..."]) -> Float[Array, "B n n"]:
    """`h g g^T` with `h = g^T H g / |g|^4`, at least 0."""
    g, hessian = _derivatives(loss, outputs)
    square = (g**2).sum(-1)
    h = jnp.einsum("bp,bpq,bq->b", g, hessian, g) / square**2
    return jnp.maximum(h, 0)[:, None, None] * jnp.einsum("bp,bq->bpq", g, g)


HESSIANS = {"exact": exact, "gradient": gradient, "projected": projected}
"""All dense terminal models by name."""
