"""Existing Flax models (linen and nnx modules) as networks for the sequential game."""

from gtddp_jax.flax_models.from_flax import from_flax

__all__ = ["from_flax"]
