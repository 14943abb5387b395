"""Flax's linen and nnx: their models as networks for the sequential game, and training steps."""

from gtddp_jax.flax_models.from_flax import from_flax

__all__ = ["from_flax"]
